/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/uapi_serve.h"
#include "libkm/base/util.h"
#include "libkm/wg/engine/uapi_text.h"
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FOLDER "/var/run/wireguard"
#define REQUEST_MAX ((size_t)16 << 20)
#define REPLY_MAX ((size_t)64 << 20)
#define NEW ".new" /* how the name ends until the socket listens */
#define PIECE 16384
#define STALE_S 60
#define WAIT_MS 5000 /* for a client that has begun */

struct wg_uapi {
	struct wg_engine *e;
	int listener, stop;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	pthread_t thread;
};

/* Until the client's descriptor is ready; false: it takes too long, or we are to stop. */
static bool ready(const struct wg_uapi *u, int fd, short events)
{
	struct pollfd p[2] = {{.fd = fd, .events = events}, {.fd = u->stop, .events = POLLIN}};
	int n;

	do
		n = poll(p, 2, WAIT_MS);
	while (n < 0 && errno == EINTR);
	return n > 0 && !p[1].revents;
}

static bool send_all(const struct wg_uapi *u, int fd, const struct km_buf *b)
{
	size_t at = 0;
	ssize_t n;

	while (at < b->len) {
		if (!ready(u, fd, POLLOUT))
			return false;
		n = send(fd, km_buf_head(b) + at, b->len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return false;
		at += n > 0 ? (size_t)n : 0;
	}
	return true;
}

/* Every whole request that is there; false: the connection ends. */
static bool answer(struct wg_uapi *u, int fd, struct km_buf *in)
{
	struct km_buf out;
	bool ok = true;
	size_t n;

	while (ok && (n = wg_uapi_request_len((const char *)km_buf_head(in), in->len)) > 0) {
		km_buf_init(&out, REPLY_MAX);
		ok = wg_uapi_answer(u->e, (const char *)km_buf_head(in), n, &out) &&
		     send_all(u, fd, &out);
		km_buf_wipe(&out);
		km_buf_consume(in, n);
	}
	return ok;
}

static void serve(struct wg_uapi *u, int fd)
{
	struct km_buf in;
	uint8_t *p;
	size_t seen;
	ssize_t n;

	km_buf_init(&in, REQUEST_MAX);
	while (ready(u, fd, POLLIN) && !km_buf_reserve(&in, PIECE, &p)) {
		n = recv(fd, p, PIECE, MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			break;
		/* Only what is new is searched for a request's end: thousands of peers are
		 * megabytes. */
		seen = in.len > 0 ? in.len - 1 : 0;
		km_buf_commit(&in, (size_t)n);
		if (wg_uapi_request_len((const char *)km_buf_head(&in) + seen, in.len - seen) > 0 &&
		    !answer(u, fd, &in))
			break;
	}
	km_buf_wipe(&in);
}

static void *run(void *arg)
{
	struct wg_uapi *u = arg;
	struct pollfd p[2] = {{.fd = u->listener, .events = POLLIN},
			      {.fd = u->stop, .events = POLLIN}};
	int fd;

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].revents)
			return NULL;
		fd = accept4(u->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		serve(u, fd);
		close(fd);
	}
}

/* Whether somebody accepts connections there, or might. */
static bool served(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool yes;

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	yes = fd < 0 || !connect(fd, (const struct sockaddr *)&sun, sizeof(sun)) ||
	      (errno != ECONNREFUSED && errno != ENOENT);
	if (fd >= 0)
		close(fd);
	return yes;
}

/* A name of ours that ends so: km, eight hex digits, and the end. */
static bool ours(const char *name, const char *end)
{
	return !strncmp(name, "km", 2) && strspn(name + 2, "0123456789abcdef") == 8 &&
	       !strcmp(name + 10, end);
}

void wg_uapi_remove_stale(void)
{
	char path[64];
	struct dirent *e;
	struct stat st;
	DIR *dir = opendir(FOLDER);

	while (dir && (e = readdir(dir))) {
		snprintf(path, sizeof(path), FOLDER "/%.20s", e->d_name);
		/* Under its own name a socket always listens: one that refuses is dead. */
		if (ours(e->d_name, ".sock") && !served(path))
			unlink(path);
		/* A young one of these is about to be renamed. */
		if (ours(e->d_name, ".sock" NEW) && !stat(path, &st) &&
		    st.st_mtime < km_wall_ms() / 1000 - STALE_S)
			unlink(path);
	}
	if (dir)
		closedir(dir);
}

/* It gets its name when it listens, so that one who finds it is never refused by a living one. */
static int listen_at(struct wg_uapi *u)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	mode_t old;
	int rc;

	if (snprintf(sun.sun_path, sizeof(sun.sun_path), "%s" NEW, u->path) >=
	    (int)sizeof(sun.sun_path)) {
		errno = ENAMETOOLONG;
		return KM_EIO;
	}
	if (served(u->path))
		return KM_EEXIST;
	u->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (u->listener < 0)
		return KM_EIO;
	unlink(sun.sun_path);
	old = umask(0077);
	rc = bind(u->listener, (struct sockaddr *)&sun, sizeof(sun));
	umask(old);
	if (rc == 0 && listen(u->listener, 16) == 0 && rename(sun.sun_path, u->path) == 0)
		return 0;
	rc = errno;
	unlink(sun.sun_path);
	close(u->listener);
	u->listener = -1;
	errno = rc;
	return KM_EIO;
}

static void uapi_free(struct wg_uapi *u)
{
	int saved = errno;

	if (u->listener >= 0) {
		close(u->listener);
		unlink(u->path);
	}
	if (u->stop >= 0)
		close(u->stop);
	free(u);
	errno = saved;
}

int wg_uapi_start_at(struct wg_uapi **out, struct wg_engine *e, const char *path)
{
	struct wg_uapi *u = km_xcalloc(1, sizeof(*u));
	int rc;

	*out = NULL;
	u->e = e;
	u->listener = -1;
	u->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	snprintf(u->path, sizeof(u->path), "%s", path);
	rc = u->stop < 0 ? KM_EIO : listen_at(u);
	if (!rc && pthread_create(&u->thread, NULL, run, u))
		rc = KM_EIO;
	if (rc) {
		uapi_free(u);
		return rc;
	}
	*out = u;
	return 0;
}

int wg_uapi_start(struct wg_uapi **out, struct wg_engine *e, const char *name)
{
	char path[64];

	*out = NULL;
	if (km_mkdirs(FOLDER, 0755))
		return KM_EIO;
	snprintf(path, sizeof(path), FOLDER "/%.15s.sock", name);
	return wg_uapi_start_at(out, e, path);
}

void wg_uapi_stop(struct wg_uapi *u)
{
	const uint64_t one = 1;

	if (u == NULL)
		return;
	if (write(u->stop, &one, sizeof(one)) == sizeof(one))
		pthread_join(u->thread, NULL);
	uapi_free(u);
}
