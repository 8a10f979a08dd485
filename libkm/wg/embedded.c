/* SPDX-License-Identifier: MIT */
/* The engine in this process: its UDP socket is made on the host side, its interface inside. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/uapi_serve.h"
#include "libkm/wg/internal.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct embedded {
	struct km_wg_device dev;
	struct wg_engine *engine;
	struct wg_uapi *uapi; /* NULL: it could not be made */
};

static const uint8_t no_psk[WG_KEY];

static int apply(struct wg_core *core, const struct km_wg_change *c)
{
	struct wg_peer *p = wg_core_peer(core, c->key);
	struct wg_endpoint e;
	int rc = 0;

	if (p == NULL && (p = wg_core_peer_new(core, c->key)) == NULL)
		return KM_EINVAL;
	if (c->set_endpoint) {
		wg_endpoint_from_sa(&e, &c->endpoint);
		wg_peer_set_endpoint(p, &e);
	}
	if (c->replace_allowed)
		wg_peer_disallow_all(p);
	for (uint8_t i = 0; rc == 0 && i < c->n_allowed; i++)
		rc = wg_peer_allow(p, c->allowed[i].addr.ip,
				   c->allowed[i].addr.family == AF_INET ? 4 : 16,
				   c->allowed[i].bits);
	if (c->clear_psk)
		wg_peer_set_psk(p, no_psk);
	if (c->set_keepalive)
		wg_peer_set_keepalive(p, c->keepalive_s);
	if (c->set_mtu)
		wg_peer_set_probed(p, c->mtu);
	return rc;
}

static int embedded_change(struct km_wg_device *d, const struct km_wg_change *c)
{
	struct embedded *m = (struct embedded *)d;
	int rc = apply(wg_engine_lock(m->engine), c);

	wg_engine_unlock(m->engine);
	return rc;
}

static int embedded_remove(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN])
{
	struct embedded *m = (struct embedded *)d;
	struct wg_peer *p = wg_core_peer(wg_engine_lock(m->engine), key);

	if (p != NULL)
		wg_peer_remove(p);
	wg_engine_unlock(m->engine);
	return 0;
}

static void fill_allowed(struct km_wg_peer_status *s, const struct wg_peer *p)
{
	s->more_allowed = p->n_allowed > KM_WG_MAX_ALLOWED;
	for (size_t i = 0; i < p->n_allowed && i < KM_WG_MAX_ALLOWED; i++) {
		struct km_prefix *to = &s->allowed[s->n_allowed++];

		to->addr.family = p->allowed[i].naddr == 4 ? AF_INET : AF_INET6;
		to->bits = p->allowed[i].bits;
		memcpy(to->addr.ip, p->allowed[i].addr, p->allowed[i].naddr);
	}
}

static void fill_status(struct km_wg_peer_status *s, struct wg_peer *p)
{
	struct wg_endpoint e;

	memset(s, 0, sizeof(*s));
	memcpy(s->key, p->remote.pub, KM_WG_KEY_LEN);
	wg_endpoint_load(&p->endpoint, &e);
	s->has_endpoint = e.port != 0;
	if (s->has_endpoint)
		wg_endpoint_to_sa(&e, &s->endpoint, true);
	s->last_handshake_ms = p->handshake_unix_ns / 1000000;
	s->rx_bytes = atomic_load(&p->rx_bytes);
	s->tx_bytes = atomic_load(&p->tx_bytes);
	if (wg_peer_mtu(p, KM_WG_MTU) < KM_WG_MTU)
		s->mtu = (uint16_t)wg_peer_mtu(p, KM_WG_MTU);
	s->keepalive_s = p->keepalive_s;
	s->has_psk = memcmp(p->remote.psk, no_psk, sizeof(no_psk)) != 0;
	fill_allowed(s, p);
}

static int embedded_dump(struct km_wg_device *d, struct km_wg_peer_status **out, size_t *n)
{
	struct embedded *m = (struct embedded *)d;
	struct wg_core *core = wg_engine_lock(m->engine);
	struct wg_peer *p, *tmp;
	int rc = 0;

	*n = 0;
	*out = core->n_peers ? calloc(core->n_peers, sizeof(**out)) : NULL;
	if (*out == NULL) {
		rc = core->n_peers ? KM_ENOMEM : 0;
		goto out;
	}
	HASH_ITER (hh, core->peers, p, tmp)
		fill_status(&(*out)[(*n)++], p);
out:
	wg_engine_unlock(m->engine);
	return rc;
}

static int embedded_control_at(struct km_wg_device *d, const char *path)
{
	struct embedded *m = (struct embedded *)d;

	return m->uapi ? 0 : wg_uapi_start_at(&m->uapi, m->engine, path);
}

static size_t add_paths(struct wg_peer *p, uint32_t mtu, struct km_wg_path *out)
{
	for (size_t i = 0; i < p->n_allowed; i++) {
		const struct wg_prefix *x = &p->allowed[i];

		memset(&out[i], 0, sizeof(out[i]));
		out[i].net.addr.family = x->naddr == 4 ? AF_INET : AF_INET6;
		memcpy(out[i].net.addr.ip, x->addr, x->naddr);
		out[i].net.bits = x->bits;
		out[i].mtu = mtu;
	}
	return p->n_allowed;
}

static int embedded_paths(struct km_wg_device *d, struct km_wg_path **out, size_t *n)
{
	struct embedded *m = (struct embedded *)d;
	struct wg_core *core = wg_engine_lock(m->engine);
	struct wg_peer *p, *tmp;
	size_t room = 0;
	uint32_t mtu;

	*n = 0;
	HASH_ITER (hh, core->peers, p, tmp)
		room += wg_peer_mtu(p, KM_WG_MTU) < KM_WG_MTU ? p->n_allowed : 0;
	*out = room ? calloc(room, sizeof(**out)) : NULL;
	HASH_ITER (hh, core->peers, p, tmp)
		if (*out && (mtu = wg_peer_mtu(p, KM_WG_MTU)) < KM_WG_MTU)
			*n += add_paths(p, mtu, *out + *n);
	wg_engine_unlock(m->engine);
	return room && !*out ? KM_ENOMEM : 0;
}

static int64_t embedded_stamp(struct km_wg_device *d, int64_t not_before_s)
{
	return wg_engine_stamp(((struct embedded *)d)->engine, not_before_s);
}

static int embedded_set_key(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN])
{
	wg_engine_set_key(((struct embedded *)d)->engine, key);
	return 0;
}

static void embedded_free(struct km_wg_device *d)
{
	struct embedded *m = (struct embedded *)d;

	wg_uapi_stop(m->uapi);
	wg_engine_stop(m->engine);
	km_wg_known_free(m->dev.known);
	free(m);
}

static const struct km_wg_ops embedded_ops = {
    .name = "embedded",
    .change = embedded_change,
    .set_key = embedded_set_key,
    .stamp = embedded_stamp,
    .remove = embedded_remove,
    .dump = embedded_dump,
    .paths = embedded_paths,
    .control_at = embedded_control_at,
    .free = embedded_free,
};

/* A thread enters the other namespace, so that the caller need not come back from it. */
struct inside {
	int netns_fd, tun, rc, error;
	bool uso;
	char *name;
};

static void *open_inside(void *arg)
{
	struct inside *in = arg;

	if (in->netns_fd >= 0 && setns(in->netns_fd, CLONE_NEWNET))
		in->rc = KM_EIO;
	else
		in->rc = wg_tun_open(&in->tun, in->name, &in->uso);
	in->error = errno;
	return NULL;
}

static int open_tun(struct inside *in, struct km_errtext *err)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, open_inside, in))
		return km_errtext_set(err, KM_ENOMEM, "no thread");
	pthread_join(thread, NULL);
	if (in->rc == KM_EUNSUPPORTED)
		return km_errtext_set(err, in->rc,
				      "/dev/net/tun is missing (%s): load the module tun, or give "
				      "the container the device",
				      strerror(in->error));
	if (in->rc)
		return km_errtext_set(err, in->rc, "no TUN device: %s", strerror(in->error));
	return 0;
}

/* Takes both descriptors over, also when it fails. */
static int start(struct km_wg_device **out, int udp, int tun, bool uso, const char *ifname,
		 const uint8_t *private_key, struct km_errtext *err)
{
	struct embedded *m = km_xcalloc(1, sizeof(*m));
	int rc = wg_engine_start(&m->engine, tun, uso, udp);

	if (rc) {
		close(tun);
		close(udp);
		free(m);
		return km_errtext_set(err, rc, "the WireGuard engine does not start: %s",
				      km_strerror(rc));
	}
	wg_engine_set_key(m->engine, private_key);
	snprintf(m->dev.ifname, sizeof(m->dev.ifname), "%s", ifname);
	m->dev.ops = &embedded_ops;
	m->dev.gone_fd = wg_engine_gone_fd(m->engine);
	m->dev.paths_fd = wg_engine_width_fd(m->engine);
	m->dev.known = km_wg_known_new();
	/* For `wg show`; an ordinary user may not make the socket there. */
	wg_uapi_remove_stale();
	if (wg_uapi_start(&m->uapi, m->engine, m->dev.ifname))
		m->uapi = NULL;
	*out = &m->dev;
	return 0;
}

static int open_udp(int *udp, uint16_t port, struct km_errtext *err)
{
	int rc = wg_udp_open(udp, port);

	return rc ? km_errtext_set(err, rc, "UDP port %u cannot be opened: %s", port,
				   strerror(errno))
		  : 0;
}

int km_wg_embedded_open(struct km_wg_device **out, int netns_fd,
			const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
			struct km_errtext *err)
{
	char name[16];
	struct inside in = {.netns_fd = netns_fd, .tun = -1, .name = name};
	int udp, rc;

	*out = NULL;
	km_wg_name_new(name);
	rc = open_udp(&udp, port, err);
	if (rc)
		return rc;
	rc = open_tun(&in, err);
	if (!rc)
		return start(out, udp, in.tun, in.uso, name, private_key, err);
	close(udp);
	return rc;
}

int km_wg_open_over(struct km_wg_device **out, int tun, bool uso, const char *ifname,
		    const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
		    struct km_errtext *err)
{
	int udp, rc = open_udp(&udp, port, err);

	*out = NULL;
	if (!rc)
		return start(out, udp, tun, uso, ifname, private_key, err);
	close(tun);
	return rc;
}
