/* Id maps that need newuidmap, and work that must be done under them. */
#ifndef UDK_USERNS_H
#define UDK_USERNS_H

#include "guard/failure.h"
#include "guard/plan.h"

/* Why clone() with the plan's namespaces was refused, in words that say what to do. */
bool userns_refused(long error, struct failure *f);
/* Lets newuidmap and newgidmap write the plan's maps for the process, which waits in its new user namespace. */
bool userns_map(const struct plan *plan, int pid, char *const *envp, struct failure *f);
/* Removes the plan's paths; under its maps, when files may belong to subordinate ids. */
bool userns_remove(const struct plan *plan, char *const *envp, struct failure *f);

#endif
