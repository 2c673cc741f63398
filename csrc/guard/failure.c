#include "guard/failure.h"

bool fail(struct failure *f, enum failure_class class, const char *format, ...)
{
	va_list args;

	f->class = class;
	va_start(args, format);
	vfmt(f->text, sizeof f->text, format, args);
	va_end(args);
	return false;
}
