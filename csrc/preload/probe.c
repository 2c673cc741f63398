/* Whether the engine works on this node: a page of code with system calls in it is changed and run. */
#include "preload/eager.h"

#if defined(__x86_64__)
int eager_probe(void)
{
	static const unsigned char code[] = {
		/* (path, mode, number): the first can be changed into a jump, the second is jumped to */
		0x89, 0xd0, 0x66, 0x90, 0x90, 0x0f, 0x05, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
		0x89, 0xd0, 0xeb, 0x00, 0x0f, 0x05, 0xc3,
	};
	char *page = sys_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long r;

	if (is_error((long)page))
		return 1;
	self.eager = true;
	eager_start();
	signals_start();
	memcpy(page, code, sizeof code);
	r = sys_mprotect(page, 4096, PROT_READ | PROT_EXEC);
	if (!r)
		r = memory_made_executable((unsigned long)page, 4096, PROT_READ | PROT_EXEC);
	if (r) {
		say(2, "code cannot be changed: %s\n", errno_text(r));
		return 1;
	}
	for (int i = 0; i < 2; i++) {
		long (*call)(const char *, long, long) = (long (*)(const char *, long, long))(page + 16 * i);

		r = call("/self/stat", F_OK, __NR_access); /* there only after translation */
		if (!r && call(NULL, 0, __NR_getpid) != sys_getpid())
			r = -ESRCH;
		if (r) {
			say(2, "call %d came back wrong: %s\n", i, errno_text(r));
			return 1;
		}
	}
	if (page[5] == 0x0f && page[6] == 0x05 && page[0] == (char)0x89) {
		say(2, "the code was not changed\n");
		return 1;
	}
	return 0;
}
#else
int eager_probe(void)
{
	say(2, "not for this machine\n");
	return 1;
}
#endif
