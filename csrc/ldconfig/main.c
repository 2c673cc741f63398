/* The command line, the configuration, the directories. */
#include "ldconfig/ldconfig.h"

static struct settings set = { .conf = "/etc/ld.so.conf", .cache = "/etc/ld.so.cache" };

void warn(const char *what, const char *name, long error)
{
	say(2, "ldconfig: %s %s%s%s\n", what, name, error ? ": " : "", error ? errno_text(error) : "");
}

void fatal(const char *what, const char *name, long error)
{
	warn(what, name, error);
	sys_exit(1);
}

/* ---- one directory ------------------------------------------------------------------------------------ */

static struct found {
	char file[NAME], name[NAME]; /* name: what programs ask for */
	int flags;
	bool link;
} found[4096];
static unsigned n_found;

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && str_eq(s + n - m, end);
}

static bool library_name(const char *name)
{
	return (str_starts(name, "lib") || str_starts(name, "ld-") || str_starts(name, "ld.so")) && mem_find(name, strlen(name), ".so", 3) &&
	       !ends_with(name, ".dpkg-new") && !ends_with(name, ".dpkg-tmp") && !ends_with(name, ".py") && strlen(name) < NAME;
}

static void look_at(int dir, const char *file)
{
	struct found one = { .link = false }, *f;
	struct stat st;
	long fd;

	if (sys_fstatat(dir, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	one.link = (st.st_mode & S_IFMT) == S_IFLNK;
	if ((one.link && sys_fstatat(dir, file, &st, 0) < 0) || (st.st_mode & S_IFMT) != S_IFREG)
		return;
	fd = sys_openat(dir, file, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	one.flags = elf_read((int)fd, one.name);
	sys_close((int)fd);
	if (!one.flags)
		return;
	str_copy(one.file, file, NAME);
	if (one.link || !one.name[0])
		str_copy(one.name, file, NAME);
	for (f = found; f < found + n_found; f++)
		if (f->flags == one.flags && str_eq(f->name, one.name))
			break;
	if (f == found + n_found) {
		if (n_found == ARRAY_LEN(found))
			fatal("too many libraries in one directory, at", file, 0);
		n_found++;
	} else if (f->link == one.link ? name_order(f->file, file) >= 0 : one.link) {
		return; /* a file is more than a link, a later version more than an earlier */
	}
	*f = one;
}

/* NAME -> FILE, unless that is what it leads to, or it is no link. */
static void link_to(int dir, const struct found *f)
{
	struct stat there, file;
	char part[NAME + 2];
	long r;

	if (!sys_fstatat(dir, f->name, &there, AT_SYMLINK_NOFOLLOW)) {
		if ((there.st_mode & S_IFMT) != S_IFLNK)
			return;
		if (!sys_fstatat(dir, f->name, &there, 0) && !sys_fstatat(dir, f->file, &file, 0) && there.st_ino == file.st_ino &&
		    there.st_dev == file.st_dev)
			return;
	}
	fmt(part, sizeof part, "%s~", f->name);
	sys_unlinkat(dir, part, 0);
	r = sys_symlinkat(f->file, dir, part);
	if (!r)
		r = sys_renameat2(dir, part, dir, f->name, 0);
	if (r < 0) {
		sys_unlinkat(dir, part, 0);
		warn("cannot link", f->name, r);
	}
}

static void directory(const char *path)
{
	static struct { uint64_t dev, ino; } seen[MAX_DIRS];
	static unsigned n_seen;
	static char entries[32768];
	struct stat st;
	long n, dir = sys_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	if (dir < 0)
		return; /* configured, but not there */
	if (sys_fstat((int)dir, &st) < 0)
		st.st_ino = 0;
	for (unsigned i = 0; i < n_seen; i++)
		if (seen[i].dev == st.st_dev && seen[i].ino == st.st_ino) {
			sys_close((int)dir);
			return;
		}
	if (n_seen == MAX_DIRS)
		fatal("too many directories, at", path, 0);
	seen[n_seen].dev = st.st_dev;
	seen[n_seen++].ino = st.st_ino;
	n_found = 0;
	while ((n = sys_getdents64((int)dir, entries, sizeof entries)) > 0)
		for (long at = 0; at < n;) {
			struct linux_dirent64 *d = (void *)(entries + at);
			at += d->d_reclen;
			if (library_name(d->d_name))
				look_at((int)dir, d->d_name);
		}
	if (n < 0)
		warn("cannot read", path, n);
	for (struct found *f = found; f < found + n_found; f++) {
		if (!f->link && !str_eq(f->name, f->file) && !set.no_links)
			link_to((int)dir, f);
		cache_add(path, f->name, f->flags);
	}
	sys_close((int)dir);
}

/* ---- configuration ------------------------------------------------------------------------------------ */

static bool matches(const char *pattern, const char *name)
{
	if (*pattern == '*')
		return matches(pattern + 1, name) || (*name && matches(pattern, name + 1));
	if (!*pattern || !*name)
		return *pattern == *name;
	return (*pattern == '?' || *pattern == *name) && matches(pattern + 1, name + 1);
}

static void configuration(const char *path, int depth);

/* The files of a pattern, whose last part only may have stars, in the order of their names. */
static void include(const char *conf, const char *pattern, int depth)
{
	static char full[8][4096], last[8][NAME];
	static char entries[8][16384];
	char *to = full[depth], *name, before[NAME] = "";
	const char *slash = str_rchr(conf, '/');
	long n, dir;

	fmt(to, sizeof full[0], "%.*s%s", *pattern == '/' || !slash ? 0 : (int)(slash - conf + 1), conf, pattern);
	name = str_rchr(to, '/');
	if (!name || strlen(name) > NAME)
		return;
	str_copy(last[depth], name + 1, NAME);
	*name = 0;
	dir = sys_open(*to ? to : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (dir < 0)
		return;
	for (;;) { /* the least of those that come after the one before */
		char next[NAME] = "";

		sys_lseek((int)dir, 0, SEEK_SET);
		while ((n = sys_getdents64((int)dir, entries[depth], sizeof entries[0])) > 0)
			for (long at = 0; at < n;) {
				struct linux_dirent64 *d = (void *)(entries[depth] + at);
				at += d->d_reclen;
				if (d->d_name[0] != '.' && matches(last[depth], d->d_name) && str_cmp(d->d_name, before) > 0 &&
				    (!*next || str_cmp(d->d_name, next) < 0))
					str_copy(next, d->d_name, NAME);
			}
		if (!*next)
			break;
		str_copy(before, next, NAME);
		size_t at = strlen(to);
		fmt(to + at, sizeof full[0] - at, "/%s", next);
		configuration(to, depth + 1);
		to[at] = 0;
	}
	sys_close((int)dir);
}

static void configured(const char *conf, char *line, int depth)
{
	char *p, *end;

	for (p = line; *p; p++)
		if (*p == '#' || *p == '\r')
			*p = 0;
	for (p = line; *p == ' ' || *p == '\t';)
		p++;
	if (str_starts(p, "include ") || str_starts(p, "include\t")) {
		for (p += 8; *p; p = end) {
			char c;
			while (*p == ' ' || *p == '\t')
				p++;
			for (end = p; *end && *end != ' ' && *end != '\t';)
				end++;
			c = *end;
			*end = 0;
			if (*p)
				include(conf, p, depth);
			if (c)
				end++;
		}
		return;
	}
	if ((end = str_chr(p, '='))) /* an old way to tell the kind of library */
		*end = 0;
	for (end = p + strlen(p); end > p && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '/');)
		*--end = 0;
	if (*p == '/')
		directory(p);
	else if (*p && !str_starts(p, "hwcap"))
		warn("not an absolute path:", p, 0);
}

static void configuration(const char *path, int depth)
{
	static char texts[8][65536];
	long n;

	if (depth == 8) {
		warn("included too deep:", path, 0);
		return;
	}
	n = read_file(AT_FDCWD, path, texts[depth], sizeof texts[0]);
	if (n < 0) {
		if (n != -ENOENT)
			warn("cannot read", path, n);
		return;
	}
	for (char *line = texts[depth], *end; line; line = end) {
		end = str_chr(line, '\n');
		if (end)
			*end++ = 0;
		configured(path, line, depth);
	}
}

/* ---- the command -------------------------------------------------------------------------------------- */

static void change_root(const char *to)
{
	long r = str_eq(to, "/") ? 0 : SC1(__NR_chroot, to);

	if (r || (r = sys_chdir("/")))
		fatal("cannot enter", to, r);
}

/* The letter of an option in words: all that take a value have it in the next word. */
static char letter(const char *word)
{
	static const struct { const char *word; char letter; } known[] = {
		{ "verbose", 'v' }, { "print-cache", 'p' }, { "ignore-aux-cache", 'i' }, { "format", 'c' },
	};

	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (str_eq(word, known[i].word))
			return known[i].letter;
	return '?';
}

static int options(int argc, char **argv)
{
	int i = 1;

	for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		char one[2] = "";

		if (str_eq(argv[i], "--"))
			return i + 1;
		if (str_starts(argv[i], "--format="))
			continue;
		if (str_starts(argv[i], "--"))
			one[0] = letter(argv[i] + 2);
		for (const char *p = *one ? one : argv[i] + 1; *p; p++) {
			const char *value = NULL;

			if (str_chr("Cfcr", *p)) {
				value = p[1] ? p + 1 : ++i < argc ? argv[i] : NULL;
				if (!value)
					fatal("an option without its value:", argv[argc - 1], 0);
			}
			switch (*p) {
			case 'n': set.only_arguments = set.no_cache = true; break;
			case 'N': set.no_cache = true; break;
			case 'X': set.no_links = true; break;
			case 'p': set.print = true; break;
			case 'C': set.cache = value; break;
			case 'f': set.conf = value; break;
			case 'r': change_root(value); break;
			case 'c': case 'i': case 'v': break;
			default: fatal("the preload engine's ldconfig does not know", argv[i], 0);
			}
			if (value)
				break;
		}
	}
	return i;
}

int main(int argc, char **argv, char **envp)
{
	static const char *const always[] = { "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib", "/lib64", "/usr/lib64" };
	int i = options(argc, argv);

	(void)envp;
	if (set.print) {
		cache_print(set.cache);
		return 0;
	}
	for (; i < argc; i++)
		if (argv[i][0] == '/')
			directory(argv[i]);
		else
			warn("not an absolute path:", argv[i], 0);
	if (!set.only_arguments) {
		configuration(set.conf, 0);
		for (size_t k = 0; k < ARRAY_LEN(always); k++)
			directory(always[k]);
	}
	if (!set.no_cache)
		cache_write(set.cache);
	return 0;
}
