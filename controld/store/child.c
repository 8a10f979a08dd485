/* SPDX-License-Identifier: MIT */
#include "controld/store/child.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int child_user_find(struct child_user *u, const char *name, struct km_errtext *err)
{
	struct passwd *pw;

	*u = (struct child_user){0};
	if (geteuid() != 0)
		return 0;
	pw = getpwnam(name);
	if (!pw)
		return km_errtext_set(
		    err, KM_ENOTFOUND,
		    "there is no user %s (setting database_user) to run PostgreSQL as", name);
	*u = (struct child_user){.change = true, .uid = pw->pw_uid, .gid = pw->pw_gid};
	u->n_groups = KM_ARRAY_LEN(u->groups);
	if (getgrouplist(name, pw->pw_gid, u->groups, &u->n_groups) < 0)
		u->n_groups = KM_ARRAY_LEN(u->groups); /* the first ones suffice */
	return 0;
}

/* Between fork and exec: only async-signal-safe calls. */
static void become(const struct child_user *u, const struct child_opts *o, pid_t parent)
{
	static char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC",
				    NULL};
	sigset_t none;
	int null;

	setpgid(0, 0);
	if (u->change &&
	    (setgroups((size_t)u->n_groups, u->groups) != 0 ||
	     setresgid(u->gid, u->gid, u->gid) != 0 || setresuid(u->uid, u->uid, u->uid) != 0))
		_exit(CHILD_NO_EXEC);
	/* After the change of user, which clears it; the parent may be gone already. */
	if (prctl(PR_SET_PDEATHSIG, o->death_signal) != 0 || getppid() != parent)
		_exit(CHILD_NO_EXEC);
	if (chdir(o->dir ? o->dir : "/") != 0)
		_exit(CHILD_NO_DIR);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	null = open("/dev/null", O_RDONLY);
	if (null < 0 || dup2(null, 0) < 0 ||
	    (o->out_fd >= 0 && (dup2(o->out_fd, 1) < 0 || dup2(o->out_fd, 2) < 0)))
		_exit(CHILD_NO_EXEC);
	close_range(3, ~0U, 0);
	umask(077);
	execve(o->argv[0], o->argv, env);
	_exit(CHILD_NO_EXEC);
}

int child_start(pid_t *pid, int *pidfd, const struct child_user *u, const struct child_opts *o)
{
	pid_t parent = getpid(), p;
	int fd;

	p = fork();
	if (p < 0)
		return KM_EIO;
	if (p == 0)
		become(u, o, parent);
	fd = pidfd_open(p, 0); /* close-on-exec by itself */
	if (fd < 0) {
		int e = errno;

		kill(p, SIGKILL);
		waitpid(p, NULL, 0);
		errno = e;
		return KM_EIO;
	}
	*pid = p;
	*pidfd = fd;
	return 0;
}

bool child_ended(int pidfd, int ms)
{
	struct pollfd pfd = {.fd = pidfd, .events = POLLIN};
	int64_t until = km_now_ms() + ms;
	int rc;

	while ((rc = poll(&pfd, 1, ms)) < 0 && errno == EINTR)
		if (ms > 0)
			ms = until > km_now_ms() ? (int)(until - km_now_ms()) : 0;
	return rc > 0;
}

int child_reap(int pidfd)
{
	siginfo_t si = {0};

	while (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED) != 0)
		if (errno != EINTR)
			return 255;
	return si.si_code == CLD_EXITED ? si.si_status : 128 + si.si_status;
}
