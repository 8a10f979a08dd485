/* SPDX-License-Identifier: MIT */
/* wireguard-go in the foreground: it creates its interface and its UDP socket on the host side, and
 * the interface is then moved. It is driven over its control socket, one connection per request. */
#include "libkm/base/util.h"
#include "libkm/wg/internal.h"
#include "libkm/wg/netlink.h"
#include "libkm/wg/uapi.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTROL_DIR "/var/run/wireguard"
#define START_MS 10000
#define REPLY_MS 3000
#define STOP_MS 1000
#define REPLY_MAX ((size_t)64 << 20)

struct userspace {
	struct km_wg_device dev;
	struct km_wg_known *known;
	pid_t pid;
	char path[64]; /* of the control socket */
};

static int control_connect(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval tv = {REPLY_MS / 1000, 0};

	if (fd < 0)
		return -1;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) ||
	    connect(fd, (struct sockaddr *)&sun, sizeof(sun))) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

static int send_all(int fd, const struct km_buf *b)
{
	const uint8_t *p = km_buf_head(b);
	size_t left = b->len;
	ssize_t n;

	while (left) {
		n = send(fd, p, left, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? KM_ETIMEOUT : KM_EIO;
		p += n;
		left -= (size_t)n;
	}
	return 0;
}

static int receive_reply(int fd, struct km_buf *reply)
{
	uint8_t *p;
	ssize_t n;
	int rc;

	do {
		rc = km_buf_reserve(reply, 16384, &p);
		if (rc)
			return rc;
		n = recv(fd, p, 16384, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? KM_ETIMEOUT : KM_EIO;
		if (!n)
			return KM_ECLOSED;
		km_buf_commit(reply, (size_t)n);
	} while (!km_uapi_complete((const char *)km_buf_head(reply), reply->len));
	return 0;
}

/* One request, one reply. KM_EIO (errno), KM_ETIMEOUT, KM_ECLOSED. */
static int control(const char *path, const struct km_buf *request, struct km_buf *reply)
{
	int fd = control_connect(path), rc;

	if (fd < 0)
		return KM_EIO;
	rc = send_all(fd, request);
	if (!rc)
		rc = receive_reply(fd, reply);
	close(fd);
	if (rc)
		return rc;
	rc = km_uapi_errno((const char *)km_buf_head(reply), reply->len);
	if (rc <= 0)
		return rc;
	errno = rc;
	return KM_EIO;
}

static int control_set(const char *path, const struct km_buf *request)
{
	struct km_buf reply;
	int rc;

	km_buf_init(&reply, 65536);
	rc = control(path, request, &reply);
	km_buf_free(&reply);
	return rc;
}

static int userspace_peer_set(struct km_wg_device *d, const struct km_wg_peer *want)
{
	struct userspace *u = (struct userspace *)d;
	struct km_wg_change c;
	struct km_buf b;
	int rc;

	if (!km_wg_known_change(u->known, want, &c))
		return 0;
	km_buf_init(&b, 8192);
	rc = km_uapi_set_peer(&b, &c);
	if (!rc)
		rc = control_set(u->path, &b);
	if (!rc)
		km_wg_known_set(u->known, want);
	km_buf_free(&b);
	return rc;
}

static int userspace_peer_remove(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN])
{
	struct userspace *u = (struct userspace *)d;
	struct km_buf b;
	int rc;

	km_buf_init(&b, 8192);
	rc = km_uapi_remove_peer(&b, key);
	if (!rc)
		rc = control_set(u->path, &b);
	if (!rc)
		km_wg_known_remove(u->known, key);
	km_buf_free(&b);
	return rc;
}

static int userspace_dump(struct km_wg_device *d, struct km_wg_peer_status **out, size_t *n)
{
	struct userspace *u = (struct userspace *)d;
	struct km_buf b, reply;
	int rc;

	*out = NULL;
	*n = 0;
	km_buf_init(&b, 64);
	km_buf_init(&reply, REPLY_MAX);
	rc = km_buf_adds(&b, "get=1\n\n");
	if (!rc)
		rc = control(u->path, &b, &reply);
	if (!rc)
		rc = km_uapi_peers((const char *)km_buf_head(&reply), reply.len, out, n);
	km_buf_free(&b);
	km_buf_wipe(&reply); /* it holds the private key */
	return rc;
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

static void userspace_free(struct km_wg_device *d)
{
	struct userspace *u = (struct userspace *)d;

	if (!u)
		return;
	if (u->pid > 0) {
		kill(u->pid, SIGTERM);
		if (u->dev.gone_fd < 0 || !ended_within(u->dev.gone_fd, STOP_MS))
			kill(u->pid, SIGKILL);
		while (waitpid(u->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (u->dev.gone_fd >= 0)
		close(u->dev.gone_fd);
	if (u->path[0])
		unlink(u->path); /* it is there only when the program could not do it itself */
	km_wg_known_free(u->known);
	free(u);
}

static const struct km_wg_ops userspace_ops = {
    .name = "wireguard-go",
    .peer_set = userspace_peer_set,
    .peer_remove = userspace_peer_remove,
    .dump = userspace_dump,
    .free = userspace_free,
};

static const char *find_program(void)
{
	static const char *const places[] = {"/usr/bin/wireguard-go", "/usr/local/bin/wireguard-go",
					     "/usr/sbin/wireguard-go"};

	for (size_t i = 0; i < KM_ARRAY_LEN(places); i++)
		if (!access(places[i], X_OK))
			return places[i];
	return NULL;
}

static int check_tun(struct km_errtext *err)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (errno == EACCES || errno == EPERM)
		return km_errtext_set(err, KM_EPERM, "/dev/net/tun may not be opened: %s",
				      strerror(errno));
	return km_errtext_set(err, KM_EUNSUPPORTED,
			      "/dev/net/tun is missing (%s): load the module tun, or give the "
			      "container the device",
			      strerror(errno));
}

/* Control sockets of ours whose program was killed with no time to remove them. */
static void remove_stale_sockets(void)
{
	char path[64];
	struct dirent *e;
	DIR *dir = opendir(CONTROL_DIR);
	int fd;

	while (dir && (e = readdir(dir))) {
		if (strlen(e->d_name) != 15 || strncmp(e->d_name, "km", 2) ||
		    strspn(e->d_name + 2, "0123456789abcdef") != 8 ||
		    strcmp(e->d_name + 10, ".sock"))
			continue;
		snprintf(path, sizeof(path), CONTROL_DIR "/%.20s", e->d_name);
		fd = control_connect(path);
		if (fd >= 0)
			close(fd);
		else if (errno == ECONNREFUSED)
			unlink(path);
	}
	if (dir)
		closedir(dir);
}

/* Only calls that are safe after fork. */
__attribute__((noreturn)) static void become(const char *program, const char *name, pid_t parent)
{
	static char log_level[] = "LOG_LEVEL=error", foreground[] = "WG_PROCESS_FOREGROUND=1";
	char *const env[] = {log_level, foreground, NULL};
	char *const argv[] = {(char *)"wireguard-go", (char *)"-f", (char *)name, NULL};
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(0);
	dup2(STDERR_FILENO, STDOUT_FILENO);
	close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
	execve(program, argv, env);
	_exit(127);
}

static int start(struct userspace *u, struct km_errtext *err)
{
	const char *program = find_program();
	pid_t self = getpid();

	if (!program)
		return km_errtext_set(
		    err, KM_EUNSUPPORTED,
		    "wireguard-go is not installed: install the package wireguard-go");
	u->pid = fork();
	if (!u->pid)
		become(program, u->dev.ifname, self);
	if (u->pid > 0)
		u->dev.gone_fd = pidfd_open(u->pid, 0);
	if (u->pid < 0 || u->dev.gone_fd < 0)
		return km_errtext_set(err, KM_EIO, "wireguard-go cannot be started: %s",
				      strerror(errno));
	return 0;
}

/* Waits until the control socket accepts a connection, the program ends or the time is over. */
static int wait_control(const struct userspace *u, int watch, struct km_errtext *err)
{
	struct pollfd p[2] = {{.fd = u->dev.gone_fd, .events = POLLIN},
			      {.fd = watch, .events = POLLIN}};
	int64_t until = km_now_ms() + START_MS;
	char events[4096];
	bool refused = false;
	int fd;

	while (km_now_ms() < until) {
		fd = control_connect(u->path);
		if (fd >= 0) {
			close(fd);
			return 0;
		}
		/* Between its bind and its listen there is no event: look again soon. */
		refused = errno == ECONNREFUSED;
		if (poll(p, 2, refused ? 2 : (int)(until - km_now_ms())) < 0 && errno != EINTR)
			break;
		if (p[0].revents)
			return km_errtext_set(err, KM_EIO,
					      "wireguard-go ended at its start; its log says why");
		if (p[1].revents && read(watch, events, sizeof(events)) < 0 && errno != EAGAIN)
			break;
	}
	return km_errtext_set(err, KM_ETIMEOUT, "wireguard-go did not open %s within %d s", u->path,
			      START_MS / 1000);
}

static int configure(const struct userspace *u, const uint8_t *private_key, uint16_t port,
		     struct km_errtext *err)
{
	struct km_buf b;
	int rc;

	km_buf_init(&b, 8192);
	rc = km_uapi_set_device(&b, private_key, port);
	if (!rc)
		rc = control_set(u->path, &b);
	km_buf_wipe(&b);
	if (rc)
		km_errtext_set(err, rc, "wireguard-go refuses its key or port: %s",
			       rc == KM_EIO ? strerror(errno) : km_strerror(rc));
	return rc;
}

static int move(const struct userspace *u, int netns_fd, struct km_errtext *err)
{
	struct km_nl *nl = NULL;
	int ifindex, rc = km_nl_open(&nl);

	if (!rc)
		rc = km_nl_link(nl, u->dev.ifname, &ifindex);
	if (!rc)
		rc = km_nl_link_move(nl, ifindex, netns_fd);
	if (rc)
		km_errtext_set(err, rc, "interface %s cannot be moved into the namespace: %s",
			       u->dev.ifname, rc == KM_EIO ? strerror(errno) : km_strerror(rc));
	km_nl_close(nl);
	return rc;
}

static struct userspace *userspace_new(void)
{
	struct userspace *u = km_xcalloc(1, sizeof(*u));

	u->dev.ops = &userspace_ops;
	u->dev.gone_fd = -1;
	u->known = km_wg_known_new();
	km_wg_name_new(u->dev.ifname);
	snprintf(u->path, sizeof(u->path), CONTROL_DIR "/%s.sock", u->dev.ifname);
	return u;
}

int km_wg_userspace_open(struct km_wg_device **out, int netns_fd,
			 const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
			 struct km_errtext *err)
{
	struct userspace *u = userspace_new();
	int rc, watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	*out = NULL;
	rc = check_tun(err);
	if (rc)
		goto out;
	remove_stale_sockets();
	if (km_mkdirs(CONTROL_DIR, 0755) || watch < 0 ||
	    inotify_add_watch(watch, CONTROL_DIR, IN_CREATE) < 0) {
		rc = km_errtext_set(err, KM_EIO, "%s cannot be watched: %s", CONTROL_DIR,
				    strerror(errno));
		goto out;
	}
	rc = start(u, err);
	if (!rc)
		rc = wait_control(u, watch, err);
	if (!rc)
		rc = configure(u, private_key, port, err);
	if (!rc && netns_fd >= 0)
		rc = move(u, netns_fd, err);
	if (rc)
		goto out;
	*out = &u->dev;
	u = NULL;
out:
	if (watch >= 0)
		close(watch);
	userspace_free(u ? &u->dev : NULL);
	return rc;
}
