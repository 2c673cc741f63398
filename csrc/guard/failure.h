/* How set-up reports a failure upwards: nothing below the guard prints. */
#ifndef UDK_FAILURE_H
#define UDK_FAILURE_H

#include "sys/sys.h"

enum failure_class {
	FAIL_ENGINE = 1,  /* this engine cannot do it on this node: another one may be tried */
	FAIL_UDK,         /* the request or the system is at fault: 125 */
	FAIL_NOT_EXECUTABLE, /* 126 */
	FAIL_NOT_FOUND,      /* 127 */
};

struct failure {
	enum failure_class class;
	long error; /* -errno, where a caller may want to know it */
	char text[1000];
};

/* Fills in the failure and returns false, so that callers can return what it returns. */
bool fail(struct failure *f, enum failure_class class, const char *format, ...) PRINTF(3, 4);

#endif
