/* SPDX-License-Identifier: MIT */
#include "agentd/forward/dial.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <event2/event_struct.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>
#include <unistd.h>

#define UNIX_RETRY_MS 20 /* a Unix listener whose backlog is full answers EAGAIN */

struct dial {
	const struct dial_env *env;
	const struct km_target *target;
	dial_done *done;
	void *arg;
	int64_t deadline_ms;
	struct km_resolver_query *query;
	int fd;
	struct event connected; /* while fd >= 0 */
	struct event timer;     /* the next step, or the end of an attempt */
	size_t n, i;
	struct km_addr addrs[KM_RESOLVER_ADDRS_MAX];
	int err;
	char why[512];
};

static void try_next(struct dial *d);

static void arm(struct dial *d, int64_t ms)
{
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

	event_add(&d->timer, &tv);
}

/* A target that had accepted sees that nobody is there any more, rather than an orderly end. */
static void hang_up(struct dial *d)
{
	static const struct linger at_once = {1, 0};

	if (d->fd < 0)
		return;
	event_del(&d->connected);
	setsockopt(d->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(d->fd);
	d->fd = -1;
}

void dial_cancel(struct dial *d)
{
	if (!d)
		return;
	km_resolver_cancel(d->query);
	event_del(&d->timer);
	hang_up(d);
	free(d);
}

static void finish(struct dial *d)
{
	int fd = d->fd;

	if (d->err) {
		hang_up(d);
		fd = -1;
	} else {
		event_del(&d->connected);
		d->fd = -1; /* handed over */
	}
	d->done(d->arg, fd, d->err, d->why);
	dial_cancel(d);
}

static void fail(struct dial *d, int err, const char *what, const char *detail)
{
	d->err = err;
	snprintf(d->why, sizeof(d->why), "%s%s%s", what, detail ? ": " : "", detail ? detail : "");
}

static void fail_addr(struct dial *d, int err, const char *detail)
{
	char text[KM_ENDPOINT_STRLEN];

	if (d->target->is_unix)
		fail(d, err, d->target->path, detail);
	else
		fail(d, err, km_endpoint_str(&d->addrs[d->i], d->target->hp.port, text), detail);
}

/* ---- one attempt ---- */

static void on_connected(evutil_socket_t fd, short what, void *arg)
{
	struct dial *d = arg;
	socklen_t len = sizeof(int);
	int error = 0;

	(void)what;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		error = errno;
	event_del(&d->timer);
	if (error) {
		fail_addr(d, KM_EIO, strerror(error));
		hang_up(d);
		d->i++;
		try_next(d);
		return;
	}
	d->err = 0;
	finish(d);
}

static socklen_t fill_sa(const struct dial *d, struct sockaddr_storage *ss)
{
	struct sockaddr_un *un = (struct sockaddr_un *)ss;

	if (!d->target->is_unix)
		return km_addr_to_sa(ss, &d->addrs[d->i], d->target->hp.port);
	memset(ss, 0, sizeof(*ss));
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, d->target->path, sizeof(un->sun_path));
	return sizeof(*un);
}

/* 0, or the errno of what failed at once. */
static int attempt(struct dial *d)
{
	struct sockaddr_storage ss;
	socklen_t len = fill_sa(d, &ss);
	int on = 1;

	d->fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (d->fd < 0)
		return errno;
	event_assign(&d->connected, d->env->base, d->fd, EV_WRITE, on_connected, d);
	if (!d->target->is_unix)
		setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(d->fd, (struct sockaddr *)&ss, len) != 0 && errno != EINPROGRESS)
		return errno;
	return event_add(&d->connected, NULL) == 0 ? 0 : ENOMEM;
}

/* An even share of what is left for each address that is left. */
static int64_t share(const struct dial *d, int64_t left)
{
	return left / (int64_t)(d->n - d->i);
}

static bool allowed(struct dial *d)
{
	const struct km_hostport *hp = &d->target->hp;

	if (d->target->is_unix ? allow_unix(d->env->allow, d->target->path)
			       : allow_addr(d->env->allow, hp->is_addr ? NULL : hp->host,
					    &d->addrs[d->i], hp->port))
		return true;
	if (!d->err || d->err == KM_EPERM)
		fail_addr(d, KM_EPERM, "not in allow_targets");
	return false;
}

static void try_next(struct dial *d)
{
	for (; d->i < d->n; d->i++) {
		int64_t left = d->deadline_ms - km_now_ms();
		int error;

		if (left <= 0) {
			fail_addr(d, KM_ETIMEOUT, "no answer in time");
			break;
		}
		if (!allowed(d))
			continue;
		error = attempt(d);
		if (!error) {
			arm(d, share(d, left));
			return;
		}
		hang_up(d);
		fail_addr(d, KM_EIO, strerror(error));
		if (error == EAGAIN && d->target->is_unix) {
			arm(d, UNIX_RETRY_MS);
			return;
		}
	}
	finish(d);
}

static void on_timer(evutil_socket_t none, short what, void *arg)
{
	struct dial *d = arg;

	(void)none;
	(void)what;
	if (d->query) {
		km_resolver_cancel(d->query);
		d->query = NULL;
		fail(d, KM_ETIMEOUT, d->target->hp.host, "the name is not resolved in time");
		finish(d);
		return;
	}
	if (d->fd >= 0) {
		fail_addr(d, KM_ETIMEOUT, "no answer in time");
		hang_up(d);
		d->i++;
	}
	if (d->err && d->i >= d->n)
		finish(d);
	else
		try_next(d);
}

/* ---- the addresses ---- */

static void on_resolved(void *arg, const struct km_resolver_answer *a)
{
	struct dial *d = arg;

	d->query = NULL;
	event_del(&d->timer);
	d->n = a->n;
	memcpy(d->addrs, a->addrs, sizeof(d->addrs));
	for (size_t i = 0; i < d->n; i++)
		d->addrs[i] = allow_unmapped(&d->addrs[i]);
	if (!d->n)
		fail(d, KM_ENOTFOUND, d->target->hp.host, a->why);
	try_next(d);
}

/* Literal addresses and localhost need no resolver. */
static bool known_addrs(struct dial *d)
{
	const struct km_hostport *hp = &d->target->hp;

	d->n = 1;
	if (d->target->is_unix)
		return true;
	if (hp->is_addr) {
		d->addrs[0] = allow_unmapped(&hp->addr);
		return true;
	}
	if (strcasecmp(hp->host, "localhost") == 0) {
		d->addrs[0] = (struct km_addr){AF_INET, {127, 0, 0, 1}};
		d->addrs[1] = (struct km_addr){AF_INET6, {[15] = 1}};
		d->n = 2;
		return true;
	}
	d->n = 0;
	return false;
}

struct dial *dial_start(const struct dial_env *env, const struct km_target *target,
			int64_t timeout_ms, dial_done *done, void *arg)
{
	struct dial *d = calloc(1, sizeof(*d));
	int64_t wait = 0;

	if (!d)
		return NULL;
	d->env = env;
	d->target = target;
	d->done = done;
	d->arg = arg;
	d->fd = -1;
	d->deadline_ms = km_now_ms() + timeout_ms;
	event_assign(&d->timer, env->base, -1, EV_TIMEOUT, on_timer, d);
	if (!known_addrs(d)) {
		d->query =
		    km_resolver_ask(env->port, target->hp.host, false, on_resolved, d, &d->err);
		wait = d->query ? timeout_ms : 0;
		d->err = d->query ? 0 : d->err;
		if (!d->query)
			fail(d, d->err, target->hp.host, "the name cannot be resolved now");
	}
	if (wait > 0)
		arm(d, wait);
	else
		event_active(&d->timer, EV_TIMEOUT, 1);
	return d;
}
