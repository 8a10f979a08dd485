/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/run.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_MAX_KEPT 256

struct run {
	pid_t pid; /* 0: none */
	int pidfd, err_fd;
	struct event *ended, *said, *timer;
	void (*done)(void *arg, const char *failed);
	void *arg;
	char *program;
	int64_t timeout_ms;
	bool late;
	char failed_to_start[128];
	char line[LINE_MAX_KEPT]; /* the last one that was not empty */
	size_t len;
	bool line_over; /* the next byte begins another line */
};

int run_check(const char *setting, const char *path, struct km_errtext *err)
{
	struct stat st;

	if (path[0] != '/')
		return km_errtext_set(err, KM_EINVAL, "%s: %s is not an absolute path", setting,
				      path);
	if (stat(path, &st))
		return km_errtext_set(err, KM_EINVAL, "%s: %s: %s", setting, path, strerror(errno));
	if (!S_ISREG(st.st_mode) || access(path, X_OK))
		return km_errtext_set(err, KM_EINVAL, "%s: %s is not an executable file", setting,
				      path);
	if (st.st_mode & 022)
		return km_errtext_set(
		    err, KM_EINVAL,
		    "%s: %s may be changed by others (mode %04o): run chmod go-w on it", setting,
		    path, (unsigned)st.st_mode & 07777);
	return 0;
}

static void run_free(struct run *r)
{
	if (r->ended)
		event_free(r->ended);
	if (r->said)
		event_free(r->said);
	if (r->timer)
		event_free(r->timer);
	if (r->pidfd >= 0)
		close(r->pidfd);
	if (r->err_fd >= 0)
		close(r->err_fd);
	free(r->program);
	free(r);
}

/* Kills what is left of the group, and collects the child. Returns its wait status. */
static int reap(struct run *r)
{
	int status = 0;

	kill(-r->pid, SIGKILL);
	while (waitpid(r->pid, &status, 0) < 0 && errno == EINTR)
		;
	r->pid = 0;
	return status;
}

void run_kill(struct run *r)
{
	if (!r)
		return;
	if (r->pid)
		reap(r);
	run_free(r);
}

/* ---- its standard error: the last line is kept ---- */
static void take(struct run *r, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] == '\n') {
			r->line_over = true;
			continue;
		}
		if (r->line_over)
			r->len = 0;
		r->line_over = false;
		if (r->len + 1 < sizeof(r->line))
			r->line[r->len++] = p[i] >= ' ' && p[i] <= '~' ? p[i] : '?';
	}
}

/* False when there is no more to come. */
static bool read_some(struct run *r)
{
	char buf[4096];
	ssize_t n = read(r->err_fd, buf, sizeof(buf));

	if (n > 0)
		take(r, buf, (size_t)n);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void on_said(evutil_socket_t fd, short what, void *arg)
{
	struct run *r = arg;

	(void)fd;
	(void)what;
	if (!read_some(r))
		event_del(r->said);
}

/* ---- the end ---- */
static void conclude(struct run *r, const char *failed)
{
	void (*done)(void *arg, const char *failed) = r->done;
	void *arg = r->arg;

	run_free(r);
	done(arg, failed);
}

static void on_ended(evutil_socket_t fd, short what, void *arg)
{
	struct run *r = arg;
	char text[LINE_MAX_KEPT + 512], how[64];
	int status = reap(r);

	(void)fd;
	(void)what;
	for (int i = 0; i < 16; i++) /* at most what a pipe holds: what it said last */
		if (!read_some(r))
			break;
	r->line[r->len] = '\0';
	if (!r->late && WIFEXITED(status) && !WEXITSTATUS(status)) {
		conclude(r, NULL);
		return;
	}
	if (r->late)
		snprintf(how, sizeof(how), "was killed after %lld s",
			 (long long)r->timeout_ms / 1000);
	else if (WIFEXITED(status))
		snprintf(how, sizeof(how), "ended with status %d", WEXITSTATUS(status));
	else
		snprintf(how, sizeof(how), "was ended by signal %d", WTERMSIG(status));
	snprintf(text, sizeof(text), "%s %s%s%s", r->program, how, r->len ? ": " : "", r->line);
	conclude(r, text);
}

/* It takes too long, or could not be started. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct run *r = arg;
	char text[512];

	(void)fd;
	(void)what;
	if (r->pid) {
		r->late = true;
		kill(-r->pid, SIGKILL);
		return; /* on_ended comes */
	}
	snprintf(text, sizeof(text), "%s could not be started: %s", r->program, r->failed_to_start);
	conclude(r, text);
}

/* ---- the start ---- */
/* A positive errno, or 0. */
static int spawn(struct run *r, const char *const *argv, int err_fd)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&fa);
	posix_spawnattr_init(&attr);
	int e = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	if (!e)
		e = posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
	if (!e)
		e = posix_spawn_file_actions_adddup2(&fa, err_fd, 2);
	if (!e)
		e = posix_spawn_file_actions_addclosefrom_np(&fa, 3);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
					    POSIX_SPAWN_SETPGROUP);
	if (!e)
		e = posix_spawn(&r->pid, argv[0], &fa, &attr, (char *const *)argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	if (e)
		r->pid = 0;
	return e;
}

/* A positive errno, or 0. */
static int begin(struct run *r, struct event_base *base, const char *const *argv)
{
	int fds[2], e;

	if (pipe2(fds, O_CLOEXEC))
		return errno;
	r->err_fd = fds[0];
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	e = spawn(r, argv, fds[1]);
	close(fds[1]);
	if (e)
		return e;
	r->pidfd = pidfd_open(r->pid, 0);
	if (r->pidfd < 0)
		e = errno;
	r->ended = e ? NULL : event_new(base, r->pidfd, EV_READ, on_ended, r);
	r->said = e ? NULL : event_new(base, r->err_fd, EV_READ | EV_PERSIST, on_said, r);
	if (!e && (!r->ended || !r->said || event_add(r->ended, NULL) || event_add(r->said, NULL)))
		e = ENOMEM;
	if (e)
		reap(r);
	return e;
}

struct run *run_start(struct event_base *base, const char *const *argv, int64_t timeout_ms,
		      void (*done)(void *arg, const char *failed), void *arg)
{
	struct run *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->pidfd = r->err_fd = -1;
	r->done = done;
	r->arg = arg;
	r->timeout_ms = timeout_ms;
	r->program = strdup(argv[0]);
	r->timer = evtimer_new(base, on_timer, r);
	if (!r->program || !r->timer) {
		run_free(r);
		return NULL;
	}
	int e = begin(r, base, argv);
	if (e) {
		if (r->ended)
			event_del(r->ended);
		snprintf(r->failed_to_start, sizeof(r->failed_to_start), "%s", strerror(e));
		timeout_ms = 0;
	}
	struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
	evtimer_add(r->timer, &tv);
	return r;
}
