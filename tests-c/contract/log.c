/* SPDX-License-Identifier: BSD-3-Clause */
/* log.c -- PMEMSET_LOG_LEVEL and PMEMSET_LOG_FILE; the program runs itself with them set */
#include "t.h"
#include <dirent.h>

/* some of everything, one failure among it */
static int worker(void)
{
	struct pmemset *set = new_set();
	struct pmemset_source *src = NULL;
	char *p = map_file(set, "f");

	if (pmemset_source_from_file(&src, "no-such-file") == 0)
		return 1;
	if (pmemset_persist(set, p, 10) || pmemset_flush(set, p, 10) || pmemset_drain(set))
		return 2;
	pmemset_memcpy(set, p, "logged", 7, 0);
	if (walk(set) != 1 || remove_at(set, p) || pmemset_delete(&set))
		return 3;
	return file_holds("f", 0, "logged", 7) ? 0 : 4;
}

static FILE *expected;

static void expect(int level, const char *format, ...)
{
	va_list ap;

	fprintf(expected, "<%d> ", level);
	va_start(ap, format);
	vfprintf(expected, format, ap);
	va_end(ap);
	fputc('\n', expected);
}

static int unconcerned(struct pmemset *set, struct pmemset_event_context *ctx, void *arg)
{
	(void)set;
	(void)ctx;
	(void)arg;
	return 0;
}

/* says in a file what the log is to say of it, line by line */
static int wordy(void)
{
	struct pmemset_part_descriptor d = { NULL, 0 };
	struct pmemset_config *cfg = NULL;
	struct pmemset_source *src = NULL;
	struct pmemset_part_map *pm = NULL;
	struct pmemset_part *part = NULL;
	struct pmemset *set = NULL, *old;
	char odd[] = "no\n\"such\" file\xff", *p, name[600];
	int code;

	expected = fopen("expected", "we");
	if (!expected)
		return 1;
	pmemset_config_new(&cfg);
	expect(2, "pmemset_config_new(%p) = 0, %p", (void *)&cfg, (void *)cfg);
	pmemset_config_set_required_store_granularity(cfg, PMEM2_GRANULARITY_PAGE);
	pmemset_config_set_event_callback(cfg, unconcerned, NULL);
	pmemset_new(&set, cfg);
	expect(2, "pmemset_new(%p, %p) = 0, %p", (void *)&set, (void *)cfg, (void *)set);
	code = pmemset_source_from_file(&src, odd);
	expect(1, "pmemset_source_from_file(%p, \"no\\n\\\"such\\\" file\\xff\") = %d: %s", (void *)&src, code, pmemset_errormsg());
	code = pmemset_source_from_file(&src, NULL);
	expect(1, "pmemset_source_from_file(%p, NULL) = %d: %s", (void *)&src, code, pmemset_errormsg());
	memset(name, 'n', 599);
	strcpy(name + 590, "/the-end");
	code = pmemset_xsource_from_file(&src, name, 7);
	name[590] = 0;
	expect(1, "pmemset_xsource_from_file(%p, \"...%s/the-end\", 0x7) = %d: %s", (void *)&src, name + 198, code, pmemset_errormsg());
	pmemset_source_from_file(&src, "f");
	expect(2, "pmemset_source_from_file(%p, \"f\") = 0, %p", (void *)&src, (void *)src);
	pmemset_part_new(&part, set, src, 0, 65536);
	expect(2, "pmemset_part_new(%p, %p, %p, 0, 65536) = 0, %p", (void *)&part, (void *)set, (void *)src, (void *)part);
	pmemset_part_map(&part, NULL, &d);
	p = d.addr;
	expect(4, "event on %p: PART_ADD %p, 65536 bytes", (void *)set, (void *)p);
	expect(2, "pmemset_part_map(%p, 0x0, %p) = 0, %p, 65536 bytes", (void *)&part, (void *)&d, (void *)p);
	code = pmemset_persist(set, p, 10);
	expect(4, "pmemset_persist(%p, %p, 10) begins", (void *)set, (void *)p);
	expect(4, "event on %p: FLUSH %p, 10 bytes", (void *)set, (void *)p);
	expect(3, "pmemset_persist(%p, %p, 10) = 0", (void *)set, (void *)p);
	pmemset_part_map_by_address(set, &pm, p + 5);
	expect(3, "pmemset_part_map_by_address(%p, %p, %p) = 0, %p: %p, 65536 bytes", (void *)set, (void *)&pm, (void *)(p + 5),
		(void *)pm, (void *)p);
	pmemset_remove_part_map(set, &pm);
	expect(2, "pmemset_remove_part_map(%p, %p) = 0, %p, 65536 bytes", (void *)set, (void *)&pm, (void *)p);
	old = set;
	pmemset_delete(&set);
	expect(2, "pmemset_delete(%p) = 0, %p", (void *)&set, (void *)old);
	pmemset_source_delete(&src);
	pmemset_config_delete(&cfg);
	return code || fclose(expected) ? 2 : 0;
}

static char err[1 << 20];
static const char *task = "worker";
static pid_t last_pid;

/* run the worker; returns the size of its stderr, kept in err[] */
static long run(const char *level, const char *file, int secure)
{
	int status, fd = open("stderr", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	pid_t pid;
	ssize_t n;

	MUST(fd >= 0);
	fflush(stdout);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		if (level)
			setenv("PMEMSET_LOG_LEVEL", level, 1);
		if (file)
			setenv("PMEMSET_LOG_FILE", file, 1);
		dup2(fd, 2);
		if (secure && setresuid(65534, 0, 0) != 0) /* exec will take us for a set-id program */
			_exit(127);
		execl("/proc/self/exe", "log", task, (char *)NULL);
		_exit(127);
	}
	last_pid = pid;
	MUST(waitpid(pid, &status, 0) == pid);
	n = pread(fd, err, sizeof err - 1, 0);
	err[n > 0 ? n : 0] = 0;
	close(fd);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return -1;
	CHECKF(status == 0, "worker: status %#x, level %s, file %s", status, level ? level : "(unset)", file ? file : "(unset)");
	return (long)n;
}

static long size_of(const char *name)
{
	return (long)file_size(name);
}

int main(int argc, char **argv)
{
	long size[5];
	char name[100];

	if (argc > 1 && strcmp(argv[1], "worker") == 0)
		return worker();
	if (argc > 1 && strcmp(argv[1], "wordy") == 0)
		return wordy();
	t_begin();
	unsetenv("PMEMSET_LOG_LEVEL");
	unsetenv("PMEMSET_LOG_FILE");
	make_file("f", 1 << 16);

	group("log: silent unless asked");
	CHECKF(run(NULL, NULL, 0) == 0, "%s", err);
	CHECKF(run("0", NULL, 0) == 0, "%s", err);
	CHECKF(run(NULL, "quiet", 0) == 0, "%s", err);
	CHECK(size_of("quiet") <= 0);

	group("log: levels on stderr");
	for (int i = 0; i < 5; i++) {
		char level[2] = { (char)('0' + i), 0 };

		size[i] = run(level, NULL, 0);
		if (i == 3)
			CHECKF(strstr(err, "part_map") && strstr(err, "persist"), "level 3 names the calls: %.300s", err);
	}
	CHECKF(size[0] == 0 && size[1] > 0 && size[1] < size[2] && size[2] < size[3] && size[3] < size[4],
		"%ld %ld %ld %ld %ld bytes at levels 0 to 4", size[0], size[1], size[2], size[3], size[4]);
	{
		const char *p = err; /* lines, whole and printable */
		size_t n = strlen(err);

		CHECK(n > 0 && err[n - 1] == '\n');
		for (; *p; p++)
			if ((unsigned char)*p < 32 && *p != '\n' && *p != '\t')
				break;
		CHECKF(*p == 0, "byte %d in the log", *p);
	}

	group("log: paths, addresses, results");
	task = "wordy";
	for (int level = 1; level < 5; level++) {
		char text[2] = { (char)('0' + level), 0 }, line[1000];
		const char *rest = err;
		FILE *f;

		MUST(run(text, NULL, 0) > 0);
		MUST((f = fopen("expected", "re")) != NULL);
		while (fgets(line, sizeof line, f)) { /* in this order, if at all */
			const char *found = strstr(rest, line);

			CHECKF((found != NULL) == (line[1] - '0' <= level), "level %d: %s", level, line);
			rest = found ? found + strlen(line) : rest;
		}
		fclose(f);
	}
	task = "worker";

	group("log: into a file");
	CHECKF(run("3", "logfile", 0) == 0, "%s", err);
	CHECK(size_of("logfile") > 0);
	CHECKF(run("3", "logfile-", 0) == 0, "%s", err);
	snprintf(name, sizeof name, "logfile-%ld", (long)last_pid);
	CHECKF(size_of(name) > 0, "%s", name);
	CHECK(access("logfile-", F_OK) != 0);

	group("log: values that make no sense");
	run("7", NULL, 0);
	run("-1", NULL, 0);
	run("99999999999999999999", NULL, 0);
	run("verbose", NULL, 0);
	run("", "", 0);
	run("3", "no/such/directory/log", 0);
	run("3", "/", 0);
	run("4", "/dev/full", 0);
	{
		char *far = malloc(9000);

		MUST(far);
		memset(far, 'x', 8999);
		far[8999] = 0;
		run("3", far, 0);
		far[8998] = '-';
		run("3", far, 0);
		free(far);
	}

	group("log: a set-id program ignores it");
	if (getuid() != 0) {
		skip("needs root");
	} else {
		long n;

		MUST(chmod(".", 0755) == 0);
		n = run("4", "from-secure", 1);
		if (n < 0)
			skip("the library is found by LD_LIBRARY_PATH only, which a set-id program does not read");
		else
			CHECK(n == 0 && access("from-secure", F_OK) != 0);
	}
	return t_end();
}
