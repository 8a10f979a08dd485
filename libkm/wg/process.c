/* SPDX-License-Identifier: MIT */
#include "libkm/wg/process.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define STOP_MS 1000

void km_wg_process_init(struct km_wg_process *p)
{
	memset(p, 0, sizeof(*p));
	p->gone_fd = p->output = -1;
}

static const char *find_program(void)
{
	static const char *const places[] = {"/usr/bin/wireguard-go", "/usr/local/bin/wireguard-go",
					     "/usr/sbin/wireguard-go"};

	for (size_t i = 0; i < KM_ARRAY_LEN(places); i++)
		if (!access(places[i], X_OK))
			return places[i];
	return NULL;
}

/* Only calls that are safe after fork. */
__attribute__((noreturn)) static void become(const char *program, const char *ifname, int output,
					     pid_t parent)
{
	static char log_level[] = "LOG_LEVEL=error", foreground[] = "WG_PROCESS_FOREGROUND=1";
	char *const env[] = {log_level, foreground, NULL};
	char *const argv[] = {(char *)"wireguard-go", (char *)"-f", (char *)ifname, NULL};
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(0);
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	execve(program, argv, env);
	_exit(127);
}

int km_wg_process_start(struct km_wg_process *p, const char *ifname, struct km_errtext *err)
{
	const char *program = find_program();
	pid_t self = getpid();
	int out[2];

	if (!program)
		return km_errtext_set(
		    err, KM_EUNSUPPORTED,
		    "wireguard-go is not installed: install the package wireguard-go");
	if (pipe2(out, O_CLOEXEC))
		return km_errtext_set(err, KM_EIO, "no pipe: %s", strerror(errno));
	p->output = out[0];
	p->pid = fork();
	if (!p->pid)
		become(program, ifname, out[1], self);
	close(out[1]);
	if (p->pid > 0)
		p->gone_fd = pidfd_open(p->pid, 0);
	if (p->pid < 0 || p->gone_fd < 0 || fcntl(p->output, F_SETFL, O_NONBLOCK))
		return km_errtext_set(err, KM_EIO, "wireguard-go cannot be started: %s",
				      strerror(errno));
	return 0;
}

/* Takes the first line out of the buffer; a line that fills it counts as whole. */
static bool take_line(struct km_wg_process *p, char line[static KM_WG_LINE_LEN])
{
	const char *end = memchr(p->buf, '\n', p->used);
	size_t len = end ? (size_t)(end - p->buf) : p->used, used = end ? len + 1 : len;
	int skip = 0;

	if (!end && p->used < sizeof(p->buf))
		return false;
	if (len >= KM_WG_LINE_LEN)
		len = KM_WG_LINE_LEN - 1;
	memcpy(line, p->buf, len);
	line[len] = 0;
	p->used -= used;
	memmove(p->buf, p->buf + used, p->used);
	/* "ERROR: (name) date time text" */
	if (sscanf(line, "ERROR: (%*[^)]) %*s %*s %n", &skip) == 0 && skip)
		memmove(line, line + skip, len - (size_t)skip + 1);
	return true;
}

bool km_wg_process_line(struct km_wg_process *p, char line[static KM_WG_LINE_LEN])
{
	ssize_t n;

	while (!take_line(p, line)) {
		n = p->output < 0 ? 0 : read(p->output, p->buf + p->used, sizeof(p->buf) - p->used);
		if (n <= 0)
			return false;
		p->used += (size_t)n;
	}
	return true;
}

static bool ended_within(int pidfd, int ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int64_t until = km_now_ms() + ms, left;
	int rc;

	do {
		left = until - km_now_ms();
		rc = poll(&p, 1, left > 0 ? (int)left : 0);
	} while (rc < 0 && errno == EINTR);
	return rc > 0;
}

void km_wg_process_stop(struct km_wg_process *p)
{
	if (p->pid > 0) {
		kill(p->pid, SIGTERM);
		if (p->gone_fd < 0 || !ended_within(p->gone_fd, STOP_MS))
			kill(p->pid, SIGKILL);
		while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (p->gone_fd >= 0)
		close(p->gone_fd);
	if (p->output >= 0)
		close(p->output);
	km_wg_process_init(p);
}
