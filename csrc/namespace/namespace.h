/* The namespace engine: makes a root of its own out of a plan, inside namespaces that the caller just cloned. */
#ifndef UDK_NAMESPACE_H
#define UDK_NAMESPACE_H

#include "guard/failure.h"
#include "guard/plan.h"

#define PATH_SIZE 4096

struct root {
	int fd;              /* the container's root directory, O_PATH */
	int staging;         /* a tmpfs of our own, which vanishes from sight with the host's root; O_PATH */
	unsigned files;      /* files made in staging so far */
	bool many_ids;       /* more than one id is mapped */
	const int *sources;  /* for each operation that binds, the opened source, else -1 */
};

/* Writes the process's own one-id maps: setgroups is denied first, as the kernel demands. */
bool ns_map_self(const struct plan *plan, struct failure *f);

/* All of the set-up: file systems, mounts, host name; at the end the container's root is the process's root. The
 * calling process must be alone in its new namespaces, with its ids mapped. */
bool ns_setup(const struct plan *plan, struct failure *f);

/* Enters the user and pid namespaces of plan->join (the latter for children), then, in the child that will be the
 * payload, the others. */
struct join {
	int fds[6];
};
bool ns_join_open(const struct plan *plan, struct join *join, struct failure *f);
bool ns_join_keeper(struct join *join, struct failure *f);
bool ns_join_payload(struct join *join, struct failure *f);

/* Executes one operation of the plan on the new root (mount.c, device.c). */
bool op_execute(struct root *root, const struct op *op, int source, struct failure *f);
bool op_dev(struct root *root, const struct op *op, struct failure *f);
bool op_devpts(struct root *root, const struct op *op, struct failure *f);

/* Paths within the root (resolve.c). */
enum create { CREATE_NOTHING, CREATE_DIR, CREATE_FILE };

/* Opens path (O_PATH) within the root as the container will see it: symbolic links of the image are followed inside
 * the root only, ".." stops at it, and magic links of /proc are plain text. What is missing is created on the way. */
bool resolve(int root, const char *path, enum create create, int *fd, struct failure *f);

/* "/proc/self/fd/N": a path that names exactly what fd refers to, however long or odd its own path is. */
struct fd_path {
	char text[32];
};
struct fd_path fd_path(int fd);

/* One mount(2) onto an opened target. */
long mount_on(const char *source, int target, const char *type, unsigned long flags, const char *options);
/* Makes the mounts at (recursive: and below) an opened directory or file read-only, nothing else changed. */
long mount_readonly(int fd, bool recursive);

#endif
