/* SPDX-License-Identifier: MIT */
#include "libkm/privnet/start.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

int km_start_timeout(int fd, int ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000L};

	return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
		       setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv))
		   ? KM_EIO
		   : 0;
}

int km_start_connect(const char *path, int *fd, struct km_errtext *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int s, e;

	*fd = -1;
	if (strlen(path) >= sizeof(sun.sun_path))
		return km_errtext_set(
		    err, KM_ETOOBIG,
		    "%s is too long for a Unix socket (%zu bytes at most): choose a "
		    "shorter runtime_dir",
		    path, sizeof(sun.sun_path) - 1);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (s < 0 || km_start_timeout(s, KM_PRIVNET_TIMEOUT_MS))
		goto fail;
	if (!connect(s, (struct sockaddr *)&sun, sizeof(sun))) {
		*fd = s;
		return 0;
	}
fail:
	e = errno;
	if (s >= 0)
		close(s);
	if (e == ENOENT || e == ECONNREFUSED)
		return km_errtext_set(err, KM_ENOTFOUND, "no warden serves %s", path);
	return km_errtext_set(err, e == EACCES ? KM_EPERM : KM_EIO,
			      "the warden's socket %s cannot be reached: %s", path, strerror(e));
}

/* What the warden may see of our environment: nothing that could be a secret. */
static bool may_pass(const char *var)
{
	static const char *const names[] = {
	    "PATH=",         "LANG=",          "TZ=",           "JOURNAL_STREAM=",
	    "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=", "TSAN_OPTIONS="};

	for (size_t i = 0; i < KM_ARRAY_LEN(names); i++)
		if (!strncmp(var, names[i], strlen(names[i])))
			return true;
	return false;
}

static void passed_environment(char *env[static 16])
{
	size_t n = 0;

	for (char **e = environ; e && *e && n < 15; e++)
		if (may_pass(*e))
			env[n++] = *e;
	env[n] = NULL;
}

/* In the grandchild: only calls that are safe after fork in a program with threads. */
__attribute__((noreturn)) static void become(const char *program, int fd, char *const *env)
{
	static char name[] = "km-warden", option[] = "--fd", value[] = "3";
	char *const argv[] = {name, option, value, NULL};
	struct km_wire_reply failure = {
	    .head = {KM_WIRE_MAGIC, KM_WIRE_VERSION, KM_WIRE_OPEN, 1, KM_EIO, 0, 0}};
	sigset_t none;
	int null;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (fd != 3)
		dup2(fd, 3);
	else
		fcntl(3, F_SETFD, 0);
	null = open("/dev/null", O_RDWR);
	dup2(null, STDIN_FILENO);
	dup2(fcntl(STDERR_FILENO, F_GETFD) < 0 ? null : STDERR_FILENO, STDOUT_FILENO);
	close_range(4, ~0U, 0);
	execve(program, argv, env);
	failure.head.count = (uint32_t)errno; /* the parent makes the sentence */
	send(3, &failure, km_wire_reply_len(KM_WIRE_OPEN, KM_EIO), MSG_NOSIGNAL);
	_exit(127);
}

int km_start_spawn(const char *program, int *fd, struct km_errtext *err)
{
	int pair[2];
	char *env[16];
	pid_t pid;

	*fd = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return km_errtext_set(err, KM_EIO, "no socket pair: %s", strerror(errno));
	passed_environment(env);
	pid = fork();
	if (!pid) {
		setsid();
		pid = fork();
		if (!pid)
			become(program, pair[1], env);
		_exit(pid < 0);
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return km_errtext_set(err, KM_EIO, "no process for the warden: %s",
				      strerror(errno));
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	*fd = pair[0];
	return 0;
}

int km_start_find(const char *given, char out[static KM_WIRE_PATH_MAX], struct km_errtext *err)
{
	static const char *const places[] = {"", "/../lib/kakuremichi"};
	char self[KM_WIRE_PATH_MAX - 32];
	ssize_t n;
	char *slash;

	if (given) {
		snprintf(out, KM_WIRE_PATH_MAX, "%s", given);
		if (!access(out, X_OK))
			return 0;
		return km_errtext_set(err, KM_ENOTFOUND, "the warden program %s: %s", given,
				      strerror(errno));
	}
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = 0;
	slash = strrchr(self, '/');
	for (size_t i = 0; slash && i < KM_ARRAY_LEN(places); i++) {
		snprintf(out, KM_WIRE_PATH_MAX, "%.*s%s/km-warden", (int)(slash - self), self,
			 places[i]);
		if (!access(out, X_OK))
			return 0;
	}
	snprintf(out, KM_WIRE_PATH_MAX, "%s", KM_LIBEXEC "/km-warden");
	if (!access(out, X_OK))
		return 0;
	return km_errtext_set(err, KM_ENOTFOUND,
			      "km-warden is neither beside this program nor in %s; the setting "
			      "`warden` names another place",
			      KM_LIBEXEC);
}

static bool hung_up_within(int fd, int events, int ms)
{
	struct pollfd p = {.fd = fd, .events = (short)events};
	int64_t until = km_now_ms() + ms, left;
	int rc;

	do {
		left = until - km_now_ms();
		rc = poll(&p, 1, left > 0 ? (int)left : 0);
	} while (rc < 0 && errno == EINTR);
	return rc > 0;
}

void km_start_kill(int fd, pid_t pid)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int pidfd;

	if (!pid && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		pid = cred.pid;
	pidfd = pid > 0 && pid != getpid() ? pidfd_open(pid, 0) : -1;
	if (pidfd < 0)
		return;
	/* The connection still being open proves that the number is still that process's. */
	if (!hung_up_within(fd, 0, 0) && !pidfd_send_signal(pidfd, SIGKILL, NULL, 0))
		hung_up_within(pidfd, POLLIN, KM_PRIVNET_TIMEOUT_MS);
	close(pidfd);
}

void km_start_wait_end(int fd, pid_t pid)
{
	if (!hung_up_within(fd, 0, KM_PRIVNET_TIMEOUT_MS))
		km_start_kill(fd, pid);
}
