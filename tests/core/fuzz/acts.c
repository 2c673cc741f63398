/* Acts of a guest that take several calls: files that are programs, sockets with names, messages. */
#undef UDK_CHECKED
#include "fuzz/play.h"

/* What files may hold that the core reads. */
void fill_file(const struct record *r, bool new_name)
{
	static const char *const texts[] = { "#!/elf", "#! /a/b/ld.so  -x y \n", "#!script\n", "#!\n", "#!  \n", "\177ELF", "", "#!/n\n" };
	unsigned long p = words(guest, r->p, false);
	long fd = guest_call(__NR_openat, (unsigned long)(long)descriptor(r->fds & 15), p, O_WRONLY | O_TRUNC | O_NONBLOCK | (new_name ? O_CREAT : 0), 0755, 0, 0);
	unsigned what = r->mode & 15;
	char text[700];

	if (fd < 0)
		return;
	if (what < ARRAY_LEN(texts)) {
		str_copy(text, texts[what], sizeof text);
		if (what == 7) { /* a name longer than the kernel looks */
			memset(text + 3, 'i', 400);
			text[r->misc + 100] = r->flags[0] & 1 ? ' ' : '\n';
			text[403] = 0;
		}
		sys_write((int)fd, text, strlen(text));
	} else {
		struct { uint8_t ident[16]; uint16_t type, machine; uint32_t version; uint64_t entry, phoff, shoff; uint32_t flags;
			 uint16_t ehsize, phentsize, phnum, a, b, c; uint32_t ptype, pflags; uint64_t offset, vaddr, paddr, filesz, memsz, align;
			 char name[16]; } e = { .ident = "\177ELF\2\1\1", .type = 3, .machine = r->misc == 0xb7 ? 183 : 62, .phoff = 64, .phentsize = 56, .phnum = 1, .ptype = 3,
						.offset = 120, .filesz = 11, .name = "/a/b/ld.so" };
		if (what & 1)
			e.phoff = r->misc, e.filesz = r->flags[0];
		if (what & 2)
			e.phnum = r->flags[1], e.offset = r->q[0] * 256UL;
		if (what & 4)
			e.ident[4] = r->q[1] & 3, e.type = r->q[2] & 3;
		sys_write((int)fd, &e, what == 8 ? 40 : sizeof e);
	}
	sys_close((int)fd);
}

struct name {
	uint16_t family;
	char path[128];
};

static uint32_t make_name(const struct record *r, struct name *to)
{
	unsigned long p = words(guest, r->p, false);
	size_t n = strlen((char *)p);

	memset(to, 0, sizeof *to);
	to->family = r->misc & 8 ? 2 : 1;
	memcpy(to->path, (char *)p, MIN(n, 108));
	if (r->misc & 16)
		to->path[0] = 0;
	return (uint32_t)(r->misc & 32 ? 110 : 2 + MIN(n + !(r->misc & 4), 108));
}

void name_socket(const struct record *r)
{
	struct name *u = (void *)IN;
	uint32_t len = make_name(r, u), *room = (void *)(IN + 200);
	long s = SC3(__NR_socket, 1, (r->mode & 1 ? 1 : 2) | 04000, 0), other = descriptor(r->fds & 15);
	static const long getters[] = { __NR_getsockname, __NR_getpeername, __NR_accept, __NR_accept4 };

	*room = r->flags[0];
	if (r->mode & 2)
		guest_call(__NR_connect, (unsigned long)s, (unsigned long)u, len, 0, 0, 0);
	else if (!guest_call(__NR_bind, (unsigned long)s, (unsigned long)u, len, 0, 0, 0) && r->mode & 1)
		SC2(__NR_listen, s, 3);
	for (int i = 0; i < 4; i++) {
		long got = guest_call(getters[i], (unsigned long)(i < 2 ? s : other), r->mode & 4 ? 0 : (unsigned long)u, r->mode & 8 ? 1 : (unsigned long)room, 0, 0, 0);
		if (i >= 2)
			keep_fd(got);
		*room = r->mode & 16 ? 0xffffffff : r->flags[1];
	}
	keep_fd(s);
}

/* A message with a name and control data, as the guest lays it out. */
static struct kmsghdr *message(const struct record *r, bool out)
{
	struct kmsghdr *m = (void *)(IN + 1024);
	struct kiovec *v = (void *)(IN + 2048);
	struct { size_t length; int level, type; uint32_t data[3], pad; } *control = (void *)(IN + 4096);

	memset(m, 0, 2048);
	v->base = OUT;
	v->length = r->flags[0];
	m->iov = v;
	m->iov_length = 1;
	if (r->misc & 1) {
		m->name = IN;
		m->name_length = out ? (int)make_name(r, (void *)IN) : (int)r->flags[1];
	}
	if (r->mode & 1) {
		m->control = control;
		m->control_length = r->mode & 2 ? sizeof *control * 2 : r->mode >> 2;
		for (int i = 0; i < 2; i++) {
			control[i].length = r->mode & 4 && i ? r->q[0] : sizeof *control - 4;
			control[i].level = 1;
			control[i].type = 2 + (r->mode >> 3 & 1 & i);
			control[i].data[0] = (uint32_t)sys_getpid();
			control[i].data[1] = control[i].data[2] = r->q[1];
		}
	}
	if (r->mode & 0x80)
		m->control = (void *)16;
	return m;
}

void send_receive(const struct record *r, bool out)
{
	unsigned long fd = (unsigned long)(long)descriptor(r->fds & 15);
	struct kmsghdr *m = message(r, out), *at = r->misc & 0x80 ? (void *)24 : m;
	uint32_t *len = (void *)(IN + 300);

	if (out) {
		guest_call(__NR_sendmsg, fd, (unsigned long)at, 0x4040, 0, 0, 0);
		guest_call(__NR_sendmmsg, fd, (unsigned long)at, r->q[2] & 3, 0x4040, 0, 0);
		guest_call(__NR_sendto, fd, (unsigned long)OUT, r->flags[0], 0x4040, (unsigned long)m->name, (unsigned long)m->name_length);
		return;
	}
	*len = r->flags[1];
	guest_call(__NR_recvfrom, fd, (unsigned long)OUT, r->flags[0], 0x40 | (r->q[3] & 2), (unsigned long)m->name, (unsigned long)len);
	guest_call(__NR_recvmsg, fd, (unsigned long)at, 0x40000040 | (r->q[3] & 2), 0, 0, 0);
	message(r, out);
	guest_call(__NR_recvmmsg, fd, (unsigned long)at, 1 + (r->q[2] & 1), 0x40000040, 0, 0);
	*len = r->flags[1] & 15;
	guest_call(__NR_getsockopt, fd, 1, r->q[2] & 4 ? 3 : 17, (unsigned long)OUT, (unsigned long)len, 0);
}

