#include "sys/sys.h"

struct sink {
	char *to;
	size_t size, length;
};

static void put(struct sink *s, char c)
{
	if (s->length + 1 < s->size)
		s->to[s->length] = c;
	s->length++;
}

static void put_number(struct sink *s, uint64_t v, unsigned base, int width, char pad, bool minus)
{
	char digits[24];
	int n = 0;

	do
		digits[n++] = "0123456789abcdef"[v % base];
	while (v /= base);
	if (minus && pad == '0')
		put(s, '-');
	for (int i = n + minus; i < width; i++)
		put(s, pad);
	if (minus && pad != '0')
		put(s, '-');
	while (n)
		put(s, digits[--n]);
}

size_t vfmt(char *to, size_t size, const char *f, va_list args)
{
	struct sink s = { to, size, 0 };

	for (; *f; f++) {
		if (*f != '%') {
			put(&s, *f);
			continue;
		}
		f++;
		char pad = ' ';
		int width = 0, precision = -1, longs = 0;
		if (*f == '0')
			pad = *f++;
		for (; *f >= '0' && *f <= '9'; f++)
			width = width * 10 + (*f - '0');
		if (*f == '.') {
			f++;
			if (*f == '*') {
				precision = va_arg(args, int);
				f++;
			} else {
				for (precision = 0; *f >= '0' && *f <= '9'; f++)
					precision = precision * 10 + (*f - '0');
			}
		}
		for (; *f == 'l' || *f == 'z'; f++)
			longs++;
		switch (*f) {
		case 'd':
		case 'i': {
			int64_t v = longs ? va_arg(args, long) : va_arg(args, int);
			put_number(&s, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 10, width, pad, v < 0);
			break;
		}
		case 'u':
		case 'x':
		case 'o': {
			uint64_t v = longs ? va_arg(args, unsigned long) : va_arg(args, unsigned);
			put_number(&s, v, *f == 'u' ? 10 : *f == 'x' ? 16 : 8, width, pad, false);
			break;
		}
		case 'p':
			put(&s, '0');
			put(&s, 'x');
			put_number(&s, (uintptr_t)va_arg(args, void *), 16, 0, ' ', false);
			break;
		case 'c':
			put(&s, (char)va_arg(args, int));
			break;
		case 's': {
			const char *p = va_arg(args, const char *);
			if (!p)
				p = "(null)";
			for (int i = 0; p[i] && (precision < 0 || i < precision); i++)
				put(&s, p[i]);
			break;
		}
		default:
			put(&s, *f);
		}
	}
	if (size)
		to[MIN(s.length, size - 1)] = 0;
	return s.length;
}

size_t fmt(char *to, size_t size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	size_t n = vfmt(to, size, format, args);
	va_end(args);
	return n;
}

void say(int fd, const char *format, ...)
{
	char text[4096];
	va_list args;

	va_start(args, format);
	size_t n = vfmt(text, sizeof text, format, args);
	va_end(args);
	write_all(fd, text, MIN(n, sizeof text - 1));
}

static const struct {
	int number;
	const char *text;
} errors[] = {
	{ EPERM, "Operation not permitted" },
	{ ENOENT, "No such file or directory" },
	{ ESRCH, "No such process" },
	{ EINTR, "Interrupted system call" },
	{ EIO, "Input/output error" },
	{ ENXIO, "No such device or address" },
	{ E2BIG, "Argument list too long" },
	{ ENOEXEC, "Exec format error" },
	{ EBADF, "Bad file descriptor" },
	{ ECHILD, "No child processes" },
	{ EAGAIN, "Resource temporarily unavailable" },
	{ ENOMEM, "Cannot allocate memory" },
	{ EACCES, "Permission denied" },
	{ EFAULT, "Bad address" },
	{ EBUSY, "Device or resource busy" },
	{ EEXIST, "File exists" },
	{ EXDEV, "Invalid cross-device link" },
	{ ENODEV, "No such device" },
	{ ENOTDIR, "Not a directory" },
	{ EISDIR, "Is a directory" },
	{ EINVAL, "Invalid argument" },
	{ ENFILE, "Too many open files in system" },
	{ EMFILE, "Too many open files" },
	{ ENOTTY, "Inappropriate ioctl for device" },
	{ ETXTBSY, "Text file busy" },
	{ EFBIG, "File too large" },
	{ ENOSPC, "No space left on device" },
	{ ESPIPE, "Illegal seek" },
	{ EROFS, "Read-only file system" },
	{ EMLINK, "Too many links" },
	{ EPIPE, "Broken pipe" },
	{ ERANGE, "Numerical result out of range" },
	{ ENAMETOOLONG, "File name too long" },
	{ ENOSYS, "Function not implemented" },
	{ ENOTEMPTY, "Directory not empty" },
	{ ELOOP, "Too many levels of symbolic links" },
	{ ENODATA, "No data available" },
	{ EOVERFLOW, "Value too large for defined data type" },
	{ EUSERS, "Too many users" },
	{ EOPNOTSUPP, "Operation not supported" },
	{ ETIMEDOUT, "Connection timed out" },
	{ ESTALE, "Stale file handle" },
	{ EDQUOT, "Disk quota exceeded" },
	{ ELIBBAD, "Accessing a corrupted shared library" },
};

const char *errno_text(long err)
{
	static char unknown[32];

	if (err < 0)
		err = -err;
	for (size_t i = 0; i < ARRAY_LEN(errors); i++)
		if (errors[i].number == err)
			return errors[i].text;
	fmt(unknown, sizeof unknown, "error %ld", err);
	return unknown;
}

const char *signal_name(int sig, char buffer[static 16])
{
	static const char names[][8] = {
		"", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
		"ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM",
		"PROF", "WINCH", "IO", "PWR", "SYS",
	};
	if (sig > 0 && (size_t)sig < ARRAY_LEN(names))
		fmt(buffer, 16, "%s", names[sig]);
	else if (sig >= 34 && sig <= 64)
		fmt(buffer, 16, "RTMIN+%d", sig - 34);
	else
		fmt(buffer, 16, "%d", sig);
	return buffer;
}
