/* Sockets, in the words of i386: one call for all of them, and messages of 4-byte pointers.
 *
 * The kernel reads and writes the messages. What it is told besides must be below 4 GiB, as this stack is: it is the
 * guest's.
 */
#include "core/sock.h"
#include "ptrace/i386.h"

#if defined(__x86_64__)
enum { I386_SOCKETPAIR = 360, I386_LISTEN = 363, I386_SETSOCKOPT = 366, I386_SENDMSG = 370, I386_RECVMSG = 372, I386_SHUTDOWN };
#define MOST_CONTROL 1024 /* more is not looked into for credentials, which come alone */
#define MOST_MESSAGES 64  /* of one recvmmsg */

struct message32 {
	uint32_t name, name_len, iov, iov_len, control, control_len, flags;
};

struct control32 {
	uint32_t len, level, type, data[];
};

static long credentials32(struct call *c, char *control, size_t n, bool out)
{
	for (size_t at = 0; at + sizeof(struct control32) <= n;) {
		struct control32 *m = (void *)(control + at);

		if (m->len < sizeof *m || m->len > n - at)
			break;
		if (m->level == SOL_SOCKET_ && m->type == SCM_CREDENTIALS_ && m->len >= sizeof *m + 12 &&
		    credentials_change(c, m->data, out))
			return -EPERM;
		at += (m->len + 3) & ~3UL;
	}
	return 0;
}

static long send_one(struct call *c, unsigned long fd, unsigned long guest, unsigned long flags)
{
	char control[MOST_CONTROL] __attribute__((aligned(8)));
	struct message32 m;
	struct address a;
	long r = guest_read(&m, (void *)guest, sizeof m);

	if (r)
		return r;
	r = address_in(c, (void *)(unsigned long)m.name, m.name_len, false, &a);
	if (r < 0)
		return r;
	if (r) {
		m.name = (uint32_t)(uintptr_t)&a;
		m.name_len = a.len;
	}
	if (m.control && m.control_len && m.control_len <= sizeof control && c->core->plan->options & OPT_OWNERS) {
		if (guest_read(control, (void *)(unsigned long)m.control, m.control_len))
			return -EFAULT;
		if (credentials32(c, control, m.control_len, false))
			return -EPERM;
		m.control = (uint32_t)(uintptr_t)control;
	}
	r = syscall_i386(I386_SENDMSG, fd, (unsigned long)&m, flags, 0, 0, 0);
	close_since(c, 0);
	return r;
}

long compat_sendmsg(struct call *c)
{
	c->w->n_fds = 0;
	return send_one(c, c->a[0], c->a[1], c->a[2]);
}

long compat_sendmmsg(struct call *c)
{
	unsigned long n = MIN(c->a[2], 1024), at = c->a[1];

	c->w->n_fds = 0;
	for (unsigned long i = 0; i < n; i++, at += sizeof(struct message32) + 4) {
		long r = send_one(c, c->a[0], at, c->a[3]);
		uint32_t sent = (uint32_t)r;

		if (r < 0)
			return i ? (long)i : r;
		if (guest_write((void *)(at + sizeof(struct message32)), &sent, sizeof sent))
			return -EFAULT;
	}
	return (long)n;
}

/* After the kernel filled a message of the guest. `room` is what the name's buffer held. */
static long received(struct call *c, unsigned long guest, uint32_t room)
{
	char control[MOST_CONTROL] __attribute__((aligned(8)));
	struct message32 m;
	struct address a = { .len = 0 };

	if (guest_read(&m, (void *)guest, sizeof m))
		return -EFAULT;
	if (m.name && m.name_len > 2 && m.name_len <= room && m.name_len <= offsetof(struct address, len)) {
		if (guest_read(&a, (void *)(unsigned long)m.name, m.name_len))
			return -EFAULT;
		a.len = m.name_len;
		address_out(c, &a);
		if (guest_write((void *)(unsigned long)m.name, &a, MIN(room, a.len)) ||
		    guest_write((void *)(guest + offsetof(struct message32, name_len)), &a.len, sizeof a.len))
			return -EFAULT;
	}
	if (m.control && m.control_len && m.control_len <= sizeof control && c->core->plan->options & OPT_OWNERS) {
		if (guest_read(control, (void *)(unsigned long)m.control, m.control_len))
			return -EFAULT;
		credentials32(c, control, m.control_len, true);
		return guest_write((void *)(unsigned long)m.control, control, m.control_len);
	}
	return 0;
}

long compat_recvmsg(struct call *c)
{
	struct message32 before = { 0 };
	long r;

	guest_read(&before, (void *)c->a[1], sizeof before);
	c->nr32 = I386_RECVMSG;
	r = call_raw(c);
	if (r < 0 || (!before.name && !before.control))
		return r;
	return received(c, c->a[1], before.name_len) ? -EFAULT : r;
}

long compat_recvmmsg(struct call *c)
{
	const size_t step = sizeof(struct message32) + 4;
	uint32_t rooms[MOST_MESSAGES] = { 0 };
	struct message32 m;
	long r;

	c->a[2] = MIN(c->a[2], ARRAY_LEN(rooms)); /* fewer than asked for is an answer, too */
	for (unsigned long i = 0; i < c->a[2]; i++)
		if (!guest_read(&m, (void *)(c->a[1] + i * step), sizeof m))
			rooms[i] = m.name_len;
	r = call_raw(c);
	for (long i = 0; i < r; i++)
		if (received(c, c->a[1] + (unsigned long)i * step, rooms[i]))
			return -EFAULT;
	return r;
}

/* By the number of the call that is one of its own since Linux 4.3. */
static long as(struct call *c, long nr32, long native)
{
	c->nr32 = nr32;
	c->nr = native;
	return trap_call(c);
}

/* System V's calls, all in one. Structures without IPC_64 have ids of 16 bits, and are left as they are. */
long compat_ipc(struct call *c)
{
	const int command = (int)c->a[(c->a[0] & 0xffff) == 3 ? 3 : 2];
	uint32_t at = (uint32_t)c->a[4];

	if (!(command & 0x100) || !(c->core->plan->options & OPT_OWNERS))
		return call_raw(c);
	switch (c->a[0] & 0xffff) {
	case 3: /* a union, where it lies */
		return guest_read(&at, (void *)(uintptr_t)at, sizeof at) ? -EFAULT : ipc_answer(c, command, (void *)(uintptr_t)at, SEM_DESCRIBED);
	case 14: return ipc_answer(c, command, (void *)(uintptr_t)at, MSG_DESCRIBED);
	case 24: return ipc_answer(c, command, (void *)(uintptr_t)at, SHM_DESCRIBED);
	}
	return call_raw(c);
}

long compat_socketcall(struct call *c)
{
	static const uint8_t words[] = { 0, 3, 3, 3, 2, 3, 3, 3, 4, 4, 4, 6, 6, 2, 5, 5, 3, 3, 4, 5, 4 };
	unsigned long what = c->a[0];
	uint32_t a[6] = { 0 };

	if (what < 1 || what >= ARRAY_LEN(words))
		return -EINVAL;
	if (guest_read(a, (void *)c->a[1], words[what] * sizeof a[0]))
		return -EFAULT;
	for (int i = 0; i < 6; i++)
		c->a[i] = a[i];
	switch (what) {
	case 1: return call_socket(&(struct call){ .core = c->core, .w = c->w, .nr = __NR_socket, .a = { a[0], a[1], a[2] } });
	case 2: return as(c, 361, __NR_bind);
	case 3: return as(c, 362, __NR_connect);
	case 4: c->nr32 = I386_LISTEN; return call_raw(c);
	case 5: return as(c, 364, __NR_accept4);
	case 6: return as(c, 367, __NR_getsockname);
	case 7: return as(c, 368, __NR_getpeername);
	case 8: c->nr32 = I386_SOCKETPAIR; return call_raw(c);
	case 9:
	case 11: return as(c, 369, __NR_sendto);
	case 10:
	case 12: return as(c, 371, __NR_recvfrom);
	case 13: c->nr32 = I386_SHUTDOWN; return call_raw(c);
	case 14: c->nr32 = I386_SETSOCKOPT; return call_raw(c);
	case 15: return as(c, 365, __NR_getsockopt);
	case 16: return compat_sendmsg(c);
	case 17: return compat_recvmsg(c);
	case 18: return as(c, 364, __NR_accept4);
	case 19: c->nr32 = 337; return compat_recvmmsg(c);
	default: return compat_sendmmsg(c);
	}
}
#endif
