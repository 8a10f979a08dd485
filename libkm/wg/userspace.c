/* SPDX-License-Identifier: MIT */
/* wireguard-go in the foreground: it creates its interface and its UDP socket on the host side, and
 * the interface is then moved. It is driven over its control socket, one connection per request. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/uapi_serve.h"
#include "libkm/wg/internal.h"
#include "libkm/wg/netlink.h"
#include "libkm/wg/process.h"
#include "libkm/wg/uapi.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONTROL_DIR "/var/run/wireguard"
#define START_MS 10000
#define REPLY_MS 3000
#define REPLY_MAX ((size_t)64 << 20)

struct userspace {
	struct km_wg_device dev;
	struct km_wg_known *known;
	struct km_wg_process process;
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

/* It hears of the interface's own making only when that has been moved already, and finds no MTU.
 */
static bool idle_talk(const char *line)
{
	return strstr(line, "Failed to load updated MTU of device") != NULL;
}

static bool userspace_line(struct km_wg_device *d, char line[static KM_WG_LINE_LEN])
{
	struct userspace *u = (struct userspace *)d;

	while (km_wg_process_line(&u->process, line))
		if (!idle_talk(line))
			return true;
	return false;
}

static void userspace_free(struct km_wg_device *d)
{
	struct userspace *u = (struct userspace *)d;

	if (!u)
		return;
	km_wg_process_stop(&u->process);
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
    .line = userspace_line,
    .free = userspace_free,
};

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

/* Reads on, so that a talkative program is never held up; the last line stays. */
static void hear(struct userspace *u, char last[static KM_WG_LINE_LEN])
{
	char line[KM_WG_LINE_LEN];

	while (userspace_line(&u->dev, line))
		memcpy(last, line, KM_WG_LINE_LEN);
}

/* Waits until the control socket accepts a connection, the program ends or the time is over. */
static int wait_control(struct userspace *u, int watch, struct km_errtext *err)
{
	struct pollfd p[3] = {{.fd = u->dev.gone_fd, .events = POLLIN},
			      {.fd = watch, .events = POLLIN},
			      {.fd = u->dev.output_fd, .events = POLLIN}};
	int64_t until = km_now_ms() + START_MS;
	char events[4096], last[KM_WG_LINE_LEN] = "it said nothing";
	int fd, wait;

	while (km_now_ms() < until) {
		fd = control_connect(u->path);
		if (fd >= 0) {
			close(fd);
			return 0;
		}
		/* Between its bind and its listen there is no event: look again soon. */
		wait = errno == ECONNREFUSED ? 2 : START_MS;
		if (poll(p, 3, wait) < 0 && errno != EINTR)
			break;
		hear(u, last);
		if (p[0].revents)
			return km_errtext_set(err, KM_EIO, "wireguard-go ended at its start: %s",
					      last);
		if (p[2].revents & POLLHUP)
			p[2].fd = -1;
		if (p[1].revents && read(watch, events, sizeof(events)) < 0 && errno != EAGAIN)
			break;
	}
	return km_errtext_set(err, KM_ETIMEOUT, "wireguard-go did not open %s within %d s: %s",
			      u->path, START_MS / 1000, last);
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
	u->dev.gone_fd = u->dev.output_fd = -1;
	km_wg_process_init(&u->process);
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
	wg_uapi_remove_stale();
	if (km_mkdirs(CONTROL_DIR, 0755) || watch < 0 ||
	    inotify_add_watch(watch, CONTROL_DIR, IN_CREATE) < 0) {
		rc = km_errtext_set(err, KM_EIO, "%s cannot be watched: %s", CONTROL_DIR,
				    strerror(errno));
		goto out;
	}
	rc = km_wg_process_start(&u->process, u->dev.ifname, err);
	u->dev.gone_fd = u->process.gone_fd;
	u->dev.output_fd = u->process.output;
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
