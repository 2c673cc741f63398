/* The length decoder. Tables after the opcode maps of the Intel SDM, volume 2, appendix A, as 64-bit mode has them. */
#include "preload/insn.h"

/* One letter for each opcode, what follows it:
 *   . nothing   m ModRM   b imm8   w imm16   z imm32 (16 with 66)   M ModRM imm8   Z ModRM immz   e imm16 imm8
 *   v immz, or 64 bits with REX.W   o an address   j rel8   J rel32   3 group 3   p prefix   V VEX and the like
 *   x not in 64-bit mode */
static const char one[257] =
	"mmmmbzxxmmmmbzxx" "mmmmbzxxmmmmbzxx" "mmmmbzpxmmmmbzpx" "mmmmbzpxmmmmbzpx"
	"pppppppppppppppp" "................" "xxVmppppzZbM...." "jjjjjjjjjjjjjjjj"
	"MZxMmmmmmmmmmmmV" "..........x....." "oooo....bz......" "bbbbbbbbvvvvvvvv"
	"MMw.VVMZe.w..bx." "mmmmxxx.mmmmmmmm" "jjjjbbbbJJxj...." "p.pp..33......mm";
static const char two[257] =
	"mmmmx.....x.xm.M" "mmmmmmmmmmmmmmmm" "mmmmxxxxmmmmmmmm" "......x.VxVxxxxx"
	"mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm" "MMMMmmm.mmxxmmmm"
	"JJJJJJJJJJJJJJJJ" "mmmmmmmmmmmmmmmm" "...mMmxx...mMmmm" "mmmmmmmmmmMmmmmm"
	"mmMmMMMm........" "mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm";

struct reader {
	const uint8_t *p;
	size_t n, at;
	bool short_of;
};

static uint8_t next(struct reader *r)
{
	if (r->at >= r->n || r->at >= INSN_MAX) {
		r->short_of = true;
		return 0;
	}
	return r->p[r->at++];
}

static int64_t number(struct reader *r, int size)
{
	uint64_t v = 0;

	for (int i = 0; i < size; i++)
		v |= (uint64_t)next(r) << (8 * i);
	return size == 1 ? (int8_t)v : size == 4 ? (int32_t)v : (int64_t)v;
}

/* ModRM, SIB and displacement. True when the operand is relative to rip. */
static bool modrm(struct reader *r, uint8_t *byte)
{
	uint8_t m = next(r), mod = m >> 6, sib;

	*byte = m;
	if (mod == 3)
		return false;
	if ((m & 7) == 4) {
		sib = next(r);
		if (mod == 0 && (sib & 7) == 5)
			number(r, 4);
	} else if (mod == 0 && (m & 7) == 5) {
		number(r, 4);
		return true;
	}
	if (mod)
		number(r, mod == 1 ? 1 : 4);
	return false;
}

/* Opcodes with a ModRM of which it is known where the result goes: 'r' to the register, 'm' to the operand, '-'
 * nowhere. */
static char result_of(uint8_t op, bool is_two)
{
	if (is_two) {
		if ((op >= 0x40 && op <= 0x4f) || op == 0xb6 || op == 0xb7 || op == 0xbe || op == 0xbf || op == 0xaf)
			return 'r';
		if (op == 0x1e || op == 0x1f || op == 0x0d || op == 0x10 || op == 0x11 || op == 0x28 || op == 0x29 || op == 0x6f ||
		    op == 0x7f || op == 0x57 || op == 0xef || op == 0x6e || op == 0x16 || op == 0x12 || op == 0x13 || op == 0x17 ||
		    op == 0x14 || op == 0x6c)
			return '-'; /* vector registers, memory */
		return op == 0x7e ? 'm' : op >= 0x90 && op <= 0x9f ? 'm' : 'x';
	}
	if (op < 0x40 && (op & 7) < 4)
		return op >= 0x38 ? '-' : op & 2 ? 'r' : 'm';
	switch (op) {
	case 0x63: case 0x69: case 0x6b: case 0x8a: case 0x8b: case 0x8d: return 'r';
	case 0x80: case 0x81: case 0x83: case 0x88: case 0x89: case 0xc0: case 0xc1: case 0xc6: case 0xc7: case 0xd0: case 0xd1:
	case 0xd2: case 0xd3: return 'm';
	case 0x84: case 0x85: return '-';
	default: return 'x';
	}
}

static bool keeps_rax(uint8_t op, bool is_two, uint8_t rex, uint8_t m)
{
	bool reg_rax = !(rex & 4) && (m >> 3 & 7) == 0, rm_rax = m >> 6 == 3 && !(rex & 1) && (m & 7) == 0;

	switch (result_of(op, is_two)) {
	case 'r': return !reg_rax;
	case 'm': return !rm_rax;
	case '-': return true;
	default: return false;
	}
}

static void describe(struct insn *i, const struct reader *r, uint8_t op, bool is_two, uint8_t rex, uint8_t m, bool has_modrm,
		     int64_t value)
{
	if (is_two) {
		if (op == 0x05)
			i->flags |= I_FIXED | I_SYSCALL;
		else if (op == 0x34)
			i->flags |= I_FIXED | I_INT80;
		else if (op == 0x0b)
			i->flags |= I_FIXED | I_END;
		else if (op == 0x07 || op == 0x35)
			i->flags |= I_FIXED;
	} else if (op == 0xc3 || op == 0xc2 || op == 0xcb || op == 0xca || op == 0xcf || op == 0xf4) {
		i->flags |= I_FIXED | I_END;
	} else if (op == 0xe9 || op == 0xeb) {
		i->flags |= I_END;
	} else if (op == 0xcd) {
		i->flags |= I_FIXED | ((uint8_t)value == 0x80 ? I_INT80 : 0);
	} else if (op == 0xcc || op == 0xf1) {
		i->flags |= I_FIXED;
	} else if (op == 0xff && has_modrm && (m >> 3 & 7) >= 2 && (m >> 3 & 7) <= 5) {
		i->flags |= I_FIXED | ((m >> 3 & 7) >= 4 ? I_END : 0);
	} else if (op == 0xc7 && m == 0xf8) { /* xbegin */
		i->flags |= I_FIXED | I_BRANCH;
		i->target = r->at + value;
	} else if ((op == 0x31 || op == 0x33) && m == 0xc0 && !(rex & 5)) {
		i->flags |= I_SETS_EAX;
		i->value = 0;
	} else if ((op == 0xb8 && !(rex & 9)) || (op == 0xc7 && m == 0xc0 && !(rex & 1))) {
		i->flags |= I_SETS_EAX;
		i->value = (int32_t)value;
	} else if ((op >= 0xb9 && op <= 0xbf) || (op == 0xb8 && rex & 1) || op == 0x90 || (op >= 0x50 && op <= 0x57) ||
		   (op >= 0x59 && op <= 0x5f) || (op == 0x58 && rex & 1)) {
		i->flags |= I_KEEPS_RAX;
	}
	if (has_modrm && !(i->flags & (I_SETS_EAX | I_BRANCH | I_END)) && keeps_rax(op, is_two, rex, m))
		i->flags |= I_KEEPS_RAX;
}

/* Of each row of 16, bit by bit, what programs do not contain. */
static bool odd(uint8_t op, bool is_two, uint8_t m)
{
	static const uint16_t one_odd[16] = { [6] = 0xf000, [9] = 0x0800, [12] = 0x8d00, [13] = 0x0080, [14] = 0xf0f0, [15] = 0x0c12 };
	static const uint16_t two_odd[16] = { [0] = 0x43cd, [2] = 0x000f, [3] = 0x00a5, [10] = 0x0703, [11] = 0x0200 };

	return is_two ? two_odd[op >> 4] >> (op & 15) & 1 : (one_odd[op >> 4] >> (op & 15) & 1) || (op == 0 && m == 0);
}

/* What follows a VEX, EVEX or XOP prefix; `first` is its first byte. */
static bool extended(struct reader *r, struct insn *i, uint8_t first)
{
	uint8_t map = 1, op, m;
	bool imm8;

	if (first == 0xc5) {
		next(r);
	} else {
		map = next(r) & (first == 0x62 ? 7 : 31);
		next(r);
		if (first == 0x62)
			next(r);
	}
	op = next(r);
	if (map == 1 && op == 0x77 && first != 0x62)
		return true;
	imm8 = map == 3 || map == 8 || (map == 1 && ((op >= 0x70 && op <= 0x73) || op == 0xc2 || (op >= 0xc4 && op <= 0xc6)));
	if (map == 0 || map > 10 || map == 4 || (map == 7 && first != 0x62))
		return false;
	if (modrm(r, &m))
		i->flags |= I_FIXED;
	if (imm8)
		next(r);
	if (map == 10)
		number(r, 4);
	return true;
}

int insn_decode(const uint8_t *p, size_t n, struct insn *i)
{
	struct reader r = { p, n, 0, false };
	uint8_t rex = 0, op, m = 0;
	bool small = false, short_address = false, is_two = false, has_modrm = false;
	int64_t value = 0;
	char what;

	memset(i, 0, sizeof *i);
	for (;; rex = (op & 0xf0) == 0x40 ? op : 0) {
		op = next(&r);
		if (r.short_of)
			return 0;
		if (one[op] != 'p')
			break;
		small |= op == 0x66;
		short_address |= op == 0x67;
	}
	what = one[op];
	if (op == 0x0f) {
		is_two = true;
		op = next(&r);
		what = two[op];
		if (what == 'V') { /* 0f 38, 0f 3a */
			what = op == 0x3a ? 'M' : 'm';
			next(&r);
			op = 0; /* no other property of these is of interest */
		}
	} else if (op == 0x8f && (r.at >= n || (p[r.at] & 31) < 8)) {
		what = 'm'; /* pop; XOP has a map number there */
	}
	switch (what) {
	case 'x':
		return 0;
	case 'V':
		if (!extended(&r, i, op) || r.short_of)
			return 0;
		i->len = (uint8_t)r.at;
		return i->len;
	case 'm': case 'M': case 'Z': case '3':
		has_modrm = true;
		if (modrm(&r, &m))
			i->flags |= I_FIXED;
		if (what == 'M' || (what == '3' && op == 0xf6 && (m >> 3 & 7) < 2))
			value = number(&r, 1);
		if (what == 'Z' || (what == '3' && op == 0xf7 && (m >> 3 & 7) < 2))
			value = number(&r, small && !(rex & 8) ? 2 : 4);
		break;
	case 'b': value = number(&r, 1); break;
	case 'w': number(&r, 2); break;
	case 'e': number(&r, 3); break;
	case 'z': value = number(&r, small ? 2 : 4); break;
	case 'v': value = number(&r, rex & 8 ? 8 : small ? 2 : 4); break;
	case 'o': number(&r, short_address ? 4 : 8); break;
	case 'j': case 'J':
		value = number(&r, what == 'j' ? 1 : 4);
		i->flags |= I_FIXED | I_BRANCH;
		i->target = (int64_t)r.at + value;
		break;
	}
	if (r.short_of)
		return 0;
	if (!(is_two && op == 0))
		describe(i, &r, op, is_two, rex, m, has_modrm, value);
	if (odd(op, is_two, m))
		i->flags |= I_ODD;
	i->len = (uint8_t)r.at;
	return i->len;
}
