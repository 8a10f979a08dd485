/* SPDX-License-Identifier: MIT */
/* The private network of a user without privilege. A child of the warden enters a new user
 * namespace and a network namespace that belongs to it, has every capability there for a moment,
 * makes what needs one, drops them all and stays to make sockets. The warden itself stays outside:
 * it owns the user namespace, and by that may use the rtnetlink socket that the child has passed to
 * it. */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/wg/engine/engine.h"
#include "warden/warden.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAME "km-inside" /* for ps and nsenter */
#define ANSWER_MS 5000

/* The child's first message. Ready, it has the TUN device and the rtnetlink socket with it. */
struct ready {
	int32_t stage, error; /* what failed, and errno; WARDEN_STAGE_READY: nothing */
	uint8_t uso;
	char ifname[16];
};
#define READY_FDS 2

static int capabilities(uint64_t *effective, bool drop)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];

	memset(data, 0, sizeof(data));
	if (drop)
		return (int)syscall(SYS_capset, &head, data);
	if (syscall(SYS_capget, &head, data))
		return -1;
	*effective = data[0].effective | (uint64_t)data[1].effective << 32;
	return 0;
}

bool warden_privileged(void)
{
	const uint64_t wanted = 1ULL << CAP_NET_ADMIN | 1ULL << CAP_SYS_ADMIN;
	uint64_t effective = 0;

	return !capabilities(&effective, false) && (effective & wanted) == wanted;
}

/* ---- the child ---- */

static int write_proc(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), rc, saved;

	if (fd < 0)
		return -1;
	rc = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
	saved = errno;
	close(fd);
	errno = saved;
	return rc;
}

/* The own user and group are 0 inside; nobody else is anybody there. Nothing needs the user's
 * number: the kernel refuses it to a root without capabilities (it asks for CAP_SETFCAP). */
static int map_ids(uid_t uid, gid_t gid)
{
	char users[32], groups[32];

	snprintf(users, sizeof(users), "0 %u 1", uid);
	snprintf(groups, sizeof(groups), "0 %u 1", gid);
	if (write_proc("/proc/self/uid_map", users) && uid != 0)
		return -1;
	return write_proc("/proc/self/setgroups", "deny") ||
	       write_proc("/proc/self/gid_map", groups);
}

/* For good, in every set; only zeros are left in /proc/PID/status. */
static int drop_capabilities(void)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			return -1;
	return capabilities(NULL, true);
}

static enum warden_stage go_inside(struct ready *r, int fds[static READY_FDS], struct km_nl **nl)
{
	const uid_t uid = geteuid();
	const gid_t gid = getegid();
	bool uso = false;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) || map_ids(uid, gid))
		return WARDEN_STAGE_NAMESPACE;
	if (warden_settle_inside(true))
		return WARDEN_STAGE_LOOPBACK;
	if (wg_tun_open(&fds[0], r->ifname, &uso))
		return WARDEN_STAGE_TUN;
	if (km_nl_open(nl))
		return WARDEN_STAGE_NETLINK;
	fds[1] = km_nl_fd(*nl);
	r->uso = uso;
	return drop_capabilities() ? WARDEN_STAGE_DROP : WARDEN_STAGE_READY;
}

/* One request for sockets after the other, until the warden closes its end. */
static void serve(int fd)
{
	int fds[KM_PRIVNET_SOCKETS_MAX];
	struct km_wire_request r;
	struct km_wire_reply reply;
	size_t len, n;
	int rc = 0;

	while (!rc && !km_wire_recv(fd, &r, sizeof(r), &len, fds, &n, 0)) {
		memset(&reply, 0, sizeof(reply));
		reply.head = r.head;
		reply.head.err = warden_sockets(&r, fds, &n, &reply.u.error);
		rc = km_wire_send(fd, &reply, sizeof(reply), fds, reply.head.err ? 0 : n, 0);
		while (n)
			close(fds[--n]);
	}
}

__attribute__((noreturn)) static void child(int fd, pid_t parent, const char *ifname)
{
	int fds[READY_FDS] = {-1, -1};
	struct ready r = {.stage = WARDEN_STAGE_READY};
	struct km_nl *nl = NULL;

	/* Nothing of the warden's lives on here: not its lock, not its daemon's connection. */
	if (fd != 3 && dup2(fd, 3) < 0)
		_exit(1);
	close_range(4, ~0U, 0);
	fd = 3;
	prctl(PR_SET_NAME, NAME, 0, 0, 0);
	snprintf(r.ifname, sizeof(r.ifname), "%s", ifname);
	r.stage = go_inside(&r, fds, &nl);
	r.error = errno;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent ||
	    km_wire_send(fd, &r, sizeof(r), fds, r.stage == WARDEN_STAGE_READY ? READY_FDS : 0,
			 0) ||
	    r.stage != WARDEN_STAGE_READY)
		_exit(1);
	close(fds[0]);
	km_nl_close(nl);
	serve(fd);
	_exit(0);
}

/* ---- the warden ---- */

static int meet(struct warden *w, struct warden_tun *tun, struct km_errtext *err)
{
	int fds[KM_PRIVNET_SOCKETS_MAX], rc;
	struct ready r;
	size_t len, n;

	rc = km_wire_recv(w->inside_fd, &r, sizeof(r), &len, fds, &n, 0);
	if (!rc && (len != sizeof(r) || (r.stage == WARDEN_STAGE_READY) != (n == READY_FDS)))
		rc = KM_EPROTO;
	if (rc)
		return km_errtext_set(err, rc, "the process inside the private network: %s",
				      km_strerror(rc));
	if (r.stage != WARDEN_STAGE_READY)
		return warden_forbidden((enum warden_stage)r.stage, r.error, err);
	tun->fd = fds[0];
	tun->uso = r.uso;
	memcpy(tun->ifname, r.ifname, sizeof(tun->ifname));
	rc = km_nl_from(&w->nl, fds[1]);
	return rc ? km_errtext_set(err, rc, "rtnetlink: %s", strerror(errno)) : 0;
}

int warden_inside_start(struct warden *w, struct warden_tun *tun, struct km_errtext *err)
{
	const struct timeval patience = {ANSWER_MS / 1000, 0};
	const pid_t self = getpid();
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return km_errtext_set(err, KM_EIO, "no socket pair: %s", strerror(errno));
	w->inside_pid = fork();
	if (!w->inside_pid)
		child(pair[1], self, tun->ifname);
	close(pair[1]);
	w->inside_fd = pair[0];
	if (w->inside_pid < 0)
		return km_errtext_set(err, KM_EIO, "no process for the private network: %s",
				      strerror(errno));
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return meet(w, tun, err);
}

int warden_inside_sockets(struct warden *w, const struct km_wire_request *msg,
			  int fds[static KM_PRIVNET_SOCKETS_MAX], size_t *n, struct km_errtext *err)
{
	struct km_wire_reply reply;
	size_t len;
	int rc = km_wire_send(w->inside_fd, msg, sizeof(*msg), NULL, 0, 0);

	*n = 0;
	if (!rc)
		rc = km_wire_recv(w->inside_fd, &reply, sizeof(reply), &len, fds, n, 0);
	if (rc == KM_EFULL)
		return km_errtext_set(err, rc, "the warden has no descriptors left");
	if (!rc && (len != sizeof(reply) || reply.head.seq != msg->head.seq))
		rc = KM_EPROTO;
	if (rc) {
		km_error("process inside the private network does not answer", km_ke(rc));
		w->stop = true; /* the daemon makes all of it anew */
		return km_errtext_set(err, rc, "the process inside the private network: %s",
				      km_strerror(rc));
	}
	if (reply.head.err)
		*err = reply.u.error;
	return reply.head.err;
}

void warden_inside_stop(struct warden *w)
{
	if (w->inside_fd >= 0)
		close(w->inside_fd);
	w->inside_fd = -1;
	if (w->inside_pid <= 0)
		return;
	kill(w->inside_pid, SIGKILL);
	while (waitpid(w->inside_pid, NULL, 0) < 0 && errno == EINTR)
		;
	w->inside_pid = 0;
}
