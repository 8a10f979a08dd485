/* SPDX-License-Identifier: MIT */
/* Devices of the kernel, through the embeddable library of wireguard-tools. */
#include "libkm/base/util.h"
#include "libkm/wg/internal.h"
#include "libkm/wg/netlink.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wireguard.h>

struct kernel {
	struct km_wg_device dev;
};

/* Sends one peer of the library's form to the device; 0 or KM_EIO with errno. */
static int send_peer(struct kernel *k, wg_peer *p)
{
	wg_device d;
	int rc;

	memset(&d, 0, sizeof(d));
	memcpy(d.name, k->dev.ifname, sizeof(d.name));
	d.first_peer = d.last_peer = p;
	rc = wg_set_device(&d);
	if (!rc)
		return 0;
	errno = -rc;
	return KM_EIO;
}

static void put_endpoint(wg_peer *p, const struct sockaddr_storage *ss)
{
	if (ss->ss_family == AF_INET)
		memcpy(&p->endpoint.addr4, ss, sizeof(p->endpoint.addr4));
	else if (ss->ss_family == AF_INET6)
		memcpy(&p->endpoint.addr6, ss, sizeof(p->endpoint.addr6));
}

static void put_allowed(wg_peer *p, wg_allowedip *list, const struct km_wg_change *c)
{
	for (uint8_t i = 0; i < c->n_allowed; i++) {
		wg_allowedip *a = &list[i];

		a->family = c->allowed[i].addr.family;
		a->cidr = c->allowed[i].bits;
		memcpy(&a->ip6, c->allowed[i].addr.ip, sizeof(a->ip6));
		a->next_allowedip = i + 1 < c->n_allowed ? a + 1 : NULL;
	}
	p->first_allowedip = c->n_allowed ? list : NULL;
	p->last_allowedip = c->n_allowed ? list + c->n_allowed - 1 : NULL;
}

static int kernel_change(struct km_wg_device *d, const struct km_wg_change *c)
{
	wg_allowedip list[KM_WG_MAX_ALLOWED];
	wg_peer p;

	/* The device knows nothing of paths; routes do. */
	if (c->set_mtu && !c->set_endpoint && !c->set_keepalive && !c->replace_allowed &&
	    !c->n_allowed && !c->clear_psk)
		return 0;
	memset(&p, 0, sizeof(p));
	memset(list, 0, sizeof(list));
	p.flags = WGPEER_HAS_PUBLIC_KEY;
	memcpy(p.public_key, c->key, sizeof(p.public_key));
	if (c->replace_allowed)
		p.flags |= WGPEER_REPLACE_ALLOWEDIPS;
	put_allowed(&p, list, c);
	if (c->set_endpoint)
		put_endpoint(&p, &c->endpoint);
	if (c->set_keepalive) {
		p.flags |= WGPEER_HAS_PERSISTENT_KEEPALIVE_INTERVAL;
		p.persistent_keepalive_interval = c->keepalive_s;
	}
	if (c->clear_psk)
		p.flags |= WGPEER_HAS_PRESHARED_KEY; /* all zero */
	return send_peer((struct kernel *)d, &p);
}

static int kernel_remove(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN])
{
	wg_peer p;

	memset(&p, 0, sizeof(p));
	p.flags = WGPEER_HAS_PUBLIC_KEY | WGPEER_REMOVE_ME;
	memcpy(p.public_key, key, sizeof(p.public_key));
	return send_peer((struct kernel *)d, &p);
}

static void fill_allowed(struct km_wg_peer_status *s, const wg_peer *p)
{
	const wg_allowedip *a;

	wg_for_each_allowedip (p, a) {
		struct km_prefix *to = &s->allowed[s->n_allowed];

		s->more_allowed = s->n_allowed == KM_WG_MAX_ALLOWED;
		if (s->more_allowed)
			return;
		to->addr.family = (uint8_t)a->family;
		to->bits = a->cidr;
		memcpy(to->addr.ip, &a->ip6, a->family == AF_INET ? 4 : 16);
		s->n_allowed++;
	}
}

static void fill_status(const struct kernel *k, struct km_wg_peer_status *s, const wg_peer *p)
{
	memset(s, 0, sizeof(*s));
	s->mtu = km_wg_known_mtu(k->dev.known, p->public_key);
	memcpy(s->key, p->public_key, KM_WG_KEY_LEN);
	s->has_endpoint = true;
	if (p->endpoint.addr.sa_family == AF_INET)
		memcpy(&s->endpoint, &p->endpoint.addr4, sizeof(p->endpoint.addr4));
	else if (p->endpoint.addr.sa_family == AF_INET6)
		memcpy(&s->endpoint, &p->endpoint.addr6, sizeof(p->endpoint.addr6));
	else
		s->has_endpoint = false;
	s->last_handshake_ms =
	    p->last_handshake_time.tv_sec * 1000 + p->last_handshake_time.tv_nsec / 1000000;
	s->rx_bytes = p->rx_bytes;
	s->tx_bytes = p->tx_bytes;
	s->keepalive_s = p->persistent_keepalive_interval;
	s->has_psk = !wg_key_is_zero(p->preshared_key);
	fill_allowed(s, p);
}

static int kernel_dump(struct km_wg_device *d, struct km_wg_peer_status **out, size_t *n)
{
	wg_device *w = NULL;
	wg_peer *p;
	size_t i = 0, count = 0;
	int rc = wg_get_device(&w, d->ifname);

	*out = NULL;
	*n = 0;
	if (rc) {
		errno = -rc;
		return KM_EIO;
	}
	wg_for_each_peer (w, p)
		count++;
	*out = count ? calloc(count, sizeof(**out)) : NULL;
	if (count && !*out) {
		rc = KM_ENOMEM;
		goto out;
	}
	wg_for_each_peer (w, p)
		fill_status((struct kernel *)d, &(*out)[i++], p);
	*n = count;
out:
	wg_for_each_peer (w, p)
		km_wipe(p->preshared_key, sizeof(p->preshared_key));
	km_wipe(w->private_key, sizeof(w->private_key));
	wg_free_device(w);
	return rc;
}

static int kernel_paths(struct km_wg_device *d, struct km_wg_path **out, size_t *n)
{
	return km_wg_known_paths(d->known, out, n);
}

static int kernel_set_key(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN])
{
	wg_device w;
	int rc;

	memset(&w, 0, sizeof(w));
	memcpy(w.name, d->ifname, sizeof(w.name));
	w.flags = WGDEVICE_HAS_PRIVATE_KEY;
	memcpy(w.private_key, key, sizeof(w.private_key));
	rc = wg_set_device(&w);
	km_wipe(&w, sizeof(w));
	errno = -rc;
	return rc ? KM_EIO : 0;
}

static void kernel_free(struct km_wg_device *d)
{
	struct kernel *k = (struct kernel *)d;

	if (!k)
		return;
	(void)wg_del_device(k->dev.ifname); /* may have gone with its namespace */
	km_wg_known_free(k->dev.known);
	free(k);
}

static const struct km_wg_ops kernel_ops = {
    .name = "kernel",
    .change = kernel_change,
    .set_key = kernel_set_key,
    .remove = kernel_remove,
    .dump = kernel_dump,
    .paths = kernel_paths,
    .free = kernel_free,
};

static int set_key_and_port(const char *name, const uint8_t *private_key, uint16_t port)
{
	wg_device d;
	int rc;

	memset(&d, 0, sizeof(d));
	memcpy(d.name, name, sizeof(d.name));
	d.flags = WGDEVICE_HAS_PRIVATE_KEY | WGDEVICE_HAS_LISTEN_PORT;
	d.listen_port = port;
	memcpy(d.private_key, private_key, sizeof(d.private_key));
	rc = wg_set_device(&d);
	km_wipe(&d, sizeof(d));
	return rc;
}

static int move(const char *name, int netns_fd)
{
	struct km_nl *nl = NULL;
	int ifindex, rc = km_nl_open(&nl);

	if (!rc)
		rc = km_nl_link(nl, name, &ifindex);
	if (!rc)
		rc = km_nl_link_move(nl, ifindex, netns_fd);
	km_nl_close(nl);
	return rc;
}

static int add_failed(int error, struct km_errtext *err)
{
	if (error == EPERM)
		return km_errtext_set(err, KM_EPERM,
				      "a kernel WireGuard device needs CAP_NET_ADMIN on the host, "
				      "which this process has not");
	return km_errtext_set(err, KM_EUNSUPPORTED,
			      "this kernel has no WireGuard, or has its module not loaded (%s)",
			      strerror(error));
}

int km_wg_kernel_open(struct km_wg_device **out, int netns_fd,
		      const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
		      struct km_errtext *err)
{
	char name[16] = "";
	struct kernel *k;
	int rc;

	*out = NULL;
	km_wg_name_new(name);
	rc = wg_add_device(name);
	if (rc)
		return add_failed(-rc, err);
	rc = set_key_and_port(name, private_key, port);
	if (rc) {
		wg_del_device(name);
		return km_errtext_set(err, KM_EIO,
				      "the kernel's WireGuard device refuses its key: %s",
				      strerror(-rc));
	}
	if (netns_fd >= 0 && move(name, netns_fd)) {
		rc = errno;
		wg_del_device(name);
		return km_errtext_set(err, KM_EIO,
				      "the WireGuard device cannot be moved into the namespace: %s",
				      strerror(rc));
	}
	k = km_xcalloc(1, sizeof(*k));
	k->dev.ops = &kernel_ops;
	k->dev.gone_fd = k->dev.paths_fd = -1;
	memcpy(k->dev.ifname, name, sizeof(name));
	k->dev.known = km_wg_known_new();
	*out = &k->dev;
	return 0;
}
