/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * log_place.c -- where the log goes: a program may close and open what it likes, fork, and cancel threads
 *
 * Each group is a child, in which the library reads the environment for the first time.
 */
#include "t.h"
#include <dirent.h>
#include <poll.h>
#include <pthread.h>

static void log_to(const char *file, const char *level)
{
	MUST(setenv("PMEMSET_LOG_LEVEL", level, 1) == 0);
	MUST(file ? setenv("PMEMSET_LOG_FILE", file, 1) == 0 : unsetenv("PMEMSET_LOG_FILE") == 0);
}

/* a call that makes a line at level 2 */
static void line(void)
{
	struct pmemset_config *cfg = NULL;

	IS(pmemset_config_new(&cfg), 0);
	IS(pmemset_config_delete(&cfg), 0);
}

static int lines_in(const char *name)
{
	char buf[65536];
	int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK), n = 0;
	ssize_t got;

	if (fd < 0)
		return -1;
	while ((got = read(fd, buf, sizeof buf)) > 0)
		for (ssize_t i = 0; i < got; i++)
			n += buf[i] == '\n';
	close(fd);
	return n;
}

/* what a descriptor is open on, or -1 */
static int number_of(const char *file)
{
	struct stat want, st;

	MUST(stat(file, &want) == 0);
	for (int fd = 0; fd < 1000; fd++)
		if (fstat(fd, &st) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino)
			return fd;
	return -1;
}

static void standard_descriptors(void)
{
	int out = dup(1), keep = dup(2);

	MUST(out > 2 && keep > 2);
	close(0);
	close(1);
	close(2);
	log_to("standard", "2");
	line();
	for (int fd = 0; fd < 3; fd++) {
		int got = open("f", O_RDWR | O_CLOEXEC);

		if (got != fd)
			dup2(out, 1);
		MUST(got == fd);
	}
	line();
	MUST(dup2(out, 1) == 1 && dup2(keep, 2) == 2);
	close(0);
	MUST(open("/dev/null", O_RDWR) == 0);
	IS(lines_in("standard"), 4);
	IS(file_size("f"), 0);
	CHECK(number_of("standard") > 2);
}

/* the program closes what it does not know, and its own file gets the number */
static void closed(void)
{
	int number, mine;

	log_to("closed", "2");
	line();
	number = number_of("closed");
	CHECKF(number > 2, "%d", number);
	MUST(fcntl(number, F_GETFD) == FD_CLOEXEC);
	close(number);
	MUST((mine = open("f", O_RDWR)) >= 0 && dup2(mine, number) == number);
	MUST(mkdir("elsewhere", 0777) == 0 && chdir("elsewhere") == 0);
	line();
	MUST(chdir("..") == 0);
	IS(file_size("f"), 0);
	IS(lseek(number, 0, SEEK_CUR), 0);
	IS(lines_in("closed"), 4);
	CHECK(lines_in("elsewhere/closed") < 0);
	/* nobody else's file is closed either, and there is one descriptor however often this happens */
	CHECK(fcntl(number, F_GETFD) == 0);
	for (int i = 0; i < 20; i++) {
		int again = number_of("closed");

		MUST(again > 2);
		close(again);
		line();
	}
	IS(lines_in("closed"), 44);
	close(number_of("closed"));
	IS(number_of("closed"), -1);
}

/* when the log is gone, nothing takes its place */
static void gone(void)
{
	log_to("gone", "2");
	line();
	MUST(rename("gone", "kept") == 0);
	line(); /* still open */
	IS(lines_in("kept"), 4);
	close(number_of("kept"));
	line();
	CHECK(lines_in("gone") < 0);
	make_file("gone", 0);
	line();
	IS(lines_in("gone"), 0); /* another file by the name */
	MUST(rename("kept", "gone") == 0);
	line();
	IS(lines_in("gone"), 6);
}

static void pipe_without_reader(void)
{
	signal(SIGPIPE, SIG_DFL);
	MUST(mkfifo("unread", 0666) == 0);
	alarm(20);
	log_to("unread", "4");
	line();
}

static void pipe_with_reader(void)
{
	char buf[4096];
	struct pollfd poll_in = { -1, POLLIN, 0 };
	sigset_t waiting;
	ssize_t n = 0;

	signal(SIGPIPE, SIG_DFL);
	MUST(mkfifo("read", 0666) == 0);
	MUST((poll_in.fd = open("read", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) >= 0);
	alarm(20);
	log_to("read", "2");
	line();
	MUST(poll(&poll_in, 1, 0) == 1);
	n = read(poll_in.fd, buf, sizeof buf - 1);
	buf[n > 0 ? n : 0] = 0;
	CHECKF(strstr(buf, "pmemset_config_new") && strstr(buf, "pmemset_config_delete"), "%s", buf);
	for (int i = 0; i < 2000; i++) /* more than a pipe holds */
		line();
	CHECK(read(poll_in.fd, buf, sizeof buf) == (ssize_t)sizeof buf);
	close(poll_in.fd);
	line(); /* nobody reads: no signal, now or later */
	MUST(sigpending(&waiting) == 0);
	CHECK(!sigismember(&waiting, SIGPIPE));
	/* one of the program's own stays */
	MUST(sigemptyset(&waiting) == 0 && sigaddset(&waiting, SIGPIPE) == 0);
	MUST(sigprocmask(SIG_BLOCK, &waiting, NULL) == 0);
	raise(SIGPIPE);
	line();
	MUST(sigpending(&waiting) == 0);
	CHECK(sigismember(&waiting, SIGPIPE));
	signal(SIGPIPE, SIG_IGN);
}

static void full(void)
{
	struct rlimit limit;

	signal(SIGXFSZ, SIG_DFL);
	MUST(getrlimit(RLIMIT_FSIZE, &limit) == 0);
	limit.rlim_cur = 1000;
	MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	log_to("limited", "2");
	for (int i = 0; i < 100; i++)
		line();
	CHECK(file_size("limited") > 900 && file_size("limited") <= 1000);
}

static int went_on;

static void *cancels_itself(void *arg)
{
	MUST(pthread_cancel(pthread_self()) == 0);
	line();
	went_on = 1;
	pthread_testcancel();
	return arg;
}

static void cancelled(void)
{
	pthread_t thread;
	void *end = NULL;

	log_to("cancelled", "4");
	MUST(pthread_create(&thread, NULL, cancels_itself, NULL) == 0);
	MUST(pthread_join(thread, &end) == 0);
	CHECK(went_on && end == PTHREAD_CANCELED);
	CHECK(lines_in("cancelled") >= 2);
}

/* a fork while another thread is about to open the log */
static int opening, go_on;

static int opens(const char *name, int flags, mode_t mode)
{
	if (!strcmp(name, "forked") && !__atomic_exchange_n(&opening, 1, __ATOMIC_SEQ_CST))
		while (!__atomic_load_n(&go_on, __ATOMIC_SEQ_CST))
			usleep(100);
	return (int)syscall(SYS_openat, AT_FDCWD, name, flags, mode);
}

#define OPEN(NAME) \
int NAME(const char *name, int flags, ...) \
{ \
	va_list ap; \
	mode_t mode; \
	va_start(ap, flags); \
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0; \
	va_end(ap); \
	return opens(name, flags, mode); \
}
OPEN(open)
OPEN(open64)

static void *one_line(void *arg)
{
	line();
	return arg;
}

static void forked(void)
{
	pthread_t thread;
	int status;
	pid_t pid;

	log_to("forked", "2");
	MUST(pthread_create(&thread, NULL, one_line, NULL) == 0);
	while (!__atomic_load_n(&opening, __ATOMIC_SEQ_CST))
		usleep(100);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		signal(SIGALRM, SIG_DFL);
		alarm(10);
		line();
		_exit(0);
	}
	MUST(waitpid(pid, &status, 0) == pid);
	CHECKF(status == 0, "the child's status is %#x", (unsigned)status);
	line();
	__atomic_store_n(&go_on, 1, __ATOMIC_SEQ_CST);
	MUST(pthread_join(thread, NULL) == 0);
	IS(lines_in("forked"), 6);
	close(number_of("forked"));
	IS(number_of("forked"), -1); /* one of two that were opened is kept */
}

int main(void)
{
	t_begin();
	unsetenv("PMEMSET_LOG_LEVEL");
	unsetenv("PMEMSET_LOG_FILE");
	make_file("f", 0);

	CHILD_GROUP(standard_descriptors, "log: never descriptor 0, 1 or 2");
	CHILD_GROUP(closed, "log: the program closes it and takes the number");
	CHILD_GROUP(gone, "log: closed and renamed");
	CHILD_GROUP(pipe_without_reader, "log: a pipe that nobody reads");
	CHILD_GROUP(pipe_with_reader, "log: a pipe");
	CHILD_GROUP(full, "log: a file that may not grow");
	CHILD_GROUP(cancelled, "log: no thread is cancelled in a line");
	CHILD_GROUP(forked, "log: a fork while it is opened");
	return t_end();
}
