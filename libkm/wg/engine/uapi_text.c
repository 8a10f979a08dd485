/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/uapi_text.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX 512

/* A `set` under way. */
struct set {
	struct wg_engine *e;
	struct wg_core *core; /* not NULL: the engine is locked, peers are being set */
	struct wg_peer *peer; /* NULL: its lines are without effect */
	bool created;
};

size_t wg_uapi_request_len(const char *text, size_t n)
{
	const char *end = memmem(text, n, "\n\n", 2);

	return end ? (size_t)(end - text) + 2 : 0;
}

/* Decimal digits only, at most max. */
static bool number(const char *s, unsigned long max, unsigned long *out)
{
	char *end;

	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	*out = strtoul(s, &end, 10);
	return errno == 0 && *end == 0 && *out <= max;
}

static int errno_of(int rc)
{
	switch (rc) {
	case 0:
		return 0;
	case KM_EEXIST:
		return EADDRINUSE;
	case KM_ENOMEM:
		return ENOMEM;
	case KM_EPERM:
		return EPERM;
	case KM_EIO:
		return EIO;
	default:
		return EINVAL;
	}
}

static int set_private_key(struct set *s, const char *value)
{
	uint8_t key[WG_KEY];
	int rc = km_unhex(key, sizeof(key), value);

	if (!rc)
		wg_engine_set_key(s->e, key);
	km_wipe(key, sizeof(key));
	return errno_of(rc);
}

static void remove_peers(struct wg_engine *e)
{
	struct wg_core *c = wg_engine_lock(e);
	struct wg_peer *p, *tmp;

	HASH_ITER (hh, c->peers, p, tmp)
		wg_peer_remove(p);
	wg_engine_unlock(e);
}

static int set_device(struct set *s, const char *key, const char *value)
{
	unsigned long v;

	if (!strcmp(key, "private_key"))
		return set_private_key(s, value);
	if (!strcmp(key, "listen_port"))
		return number(value, 65535, &v) ? errno_of(wg_engine_set_port(s->e, (uint16_t)v))
						: EINVAL;
	if (!strcmp(key, "fwmark"))
		return number(value, UINT32_MAX, &v)
			   ? errno_of(wg_engine_set_mark(s->e, (uint32_t)v))
			   : EINVAL;
	if (!strcmp(key, "replace_peers")) {
		if (strcmp(value, "true"))
			return EINVAL;
		remove_peers(s->e);
		return 0;
	}
	return EINVAL;
}

static int set_public_key(struct set *s, const char *value)
{
	uint8_t pub[WG_KEY];

	if (km_unhex(pub, sizeof(pub), value))
		return EINVAL;
	if (s->core == NULL)
		s->core = wg_engine_lock(s->e);
	else
		wg_engine_give_way(s->e); /* there may be thousands */
	s->peer = wg_core_peer(s->core, pub);
	s->created = s->peer == NULL;
	if (s->peer == NULL)
		s->peer = wg_core_peer_new(s->core, pub); /* NULL for our own key: no effect */
	return 0;
}

static int set_psk(struct set *s, const char *value)
{
	uint8_t psk[WG_KEY];
	int rc = km_unhex(psk, sizeof(psk), value);

	if (!rc && s->peer)
		wg_peer_set_psk(s->peer, psk);
	km_wipe(psk, sizeof(psk));
	return rc ? EINVAL : 0;
}

static int set_endpoint(struct set *s, const char *value)
{
	struct km_hostport hp;
	struct sockaddr_storage ss;
	struct wg_endpoint e;

	if (km_hostport_parse(&hp, value, NULL) || !hp.is_addr)
		return EINVAL;
	km_addr_to_sa(&ss, &hp.addr, hp.port);
	wg_endpoint_from_sa(&e, &ss);
	if (s->peer)
		wg_peer_set_endpoint(s->peer, &e);
	return 0;
}

static int set_allowed(struct set *s, const char *value)
{
	bool less = *value == '-';
	struct km_prefix p;
	size_t n;

	if (km_prefix_parse(&p, value + less))
		return EINVAL;
	n = p.addr.family == AF_INET ? 4 : 16;
	if (s->peer == NULL)
		return 0;
	if (!less)
		return errno_of(wg_peer_allow(s->peer, p.addr.ip, n, p.bits));
	wg_peer_disallow(s->peer, p.addr.ip, n, p.bits);
	return 0;
}

/* What a flag does to the peer. */
static int set_flag(struct set *s, const char *key, const char *value)
{
	if (strcmp(value, "true"))
		return EINVAL;
	if (s->peer == NULL)
		return 0;
	if (!strcmp(key, "replace_allowed_ips")) {
		wg_peer_disallow_all(s->peer);
	} else if (!strcmp(key, "remove") || s->created) {
		wg_peer_remove(s->peer);
		s->peer = NULL;
	}
	return 0;
}

static int set_peer(struct set *s, const char *key, const char *value)
{
	unsigned long v;

	if (!strcmp(key, "preshared_key"))
		return set_psk(s, value);
	if (!strcmp(key, "endpoint"))
		return set_endpoint(s, value);
	if (!strcmp(key, "allowed_ip"))
		return set_allowed(s, value);
	if (!strcmp(key, "remove") || !strcmp(key, "update_only") ||
	    !strcmp(key, "replace_allowed_ips"))
		return set_flag(s, key, value);
	if (!strcmp(key, "persistent_keepalive_interval")) {
		if (!number(value, 65535, &v))
			return EINVAL;
		if (s->peer)
			wg_peer_set_keepalive(s->peer, (uint16_t)v);
		return 0;
	}
	if (!strcmp(key, "protocol_version"))
		return strcmp(value, "1") ? EINVAL : 0;
	return EINVAL;
}

static int set_line(struct set *s, char *line)
{
	char *value = strchr(line, '=');

	if (value == NULL)
		return EINVAL;
	*value++ = 0;
	if (!strcmp(line, "public_key"))
		return set_public_key(s, value);
	return s->core ? set_peer(s, line, value) : set_device(s, line, value);
}

/* The lines after "set=1". */
static int set(struct wg_engine *e, const char *text, size_t n)
{
	struct set s = {.e = e};
	char line[LINE_MAX];
	const char *end;
	size_t len;
	int error = 0;

	while (!error && (end = memchr(text, '\n', n)) != NULL && end != text) {
		len = (size_t)(end - text);
		if (len >= sizeof(line) || memchr(text, 0, len)) {
			error = EINVAL;
			break;
		}
		memcpy(line, text, len);
		line[len] = 0;
		error = set_line(&s, line);
		text += len + 1;
		n -= len + 1;
	}
	km_wipe(line, sizeof(line));
	if (s.core)
		wg_engine_unlock(e);
	return error;
}

/* ---- get ---- */

static int add_key(struct km_buf *b, const char *name, const uint8_t key[static WG_KEY])
{
	char hex[2 * WG_KEY + 1];
	int rc = km_buf_addf(b, "%s=%s\n", name, km_hex(key, WG_KEY, hex));

	km_wipe(hex, sizeof(hex));
	return rc;
}

static int add_endpoint(struct km_buf *b, struct wg_peer *p)
{
	char text[KM_ENDPOINT_STRLEN];
	struct sockaddr_storage ss;
	struct wg_endpoint e;
	struct km_addr a;
	uint16_t port;

	wg_endpoint_load(&p->endpoint, &e);
	if (e.port == 0)
		return 0;
	wg_endpoint_to_sa(&e, &ss, true);
	if (km_addr_from_sa(&a, &port, (struct sockaddr *)&ss))
		return 0;
	return km_buf_addf(b, "endpoint=%s\n", km_endpoint_str(&a, port, text));
}

static int add_allowed(struct km_buf *b, const struct wg_prefix *x)
{
	struct km_addr a = {.family = x->naddr == 4 ? AF_INET : AF_INET6};
	char text[KM_ADDR_STRLEN];

	memcpy(a.ip, x->addr, x->naddr);
	return km_buf_addf(b, "allowed_ip=%s/%u\n", km_addr_str(&a, text), x->bits);
}

static int add_peer(struct km_buf *b, struct wg_peer *p)
{
	int rc = add_key(b, "public_key", p->remote.pub);

	if (!rc)
		rc = add_key(b, "preshared_key", p->remote.psk);
	if (!rc)
		rc = km_buf_adds(b, "protocol_version=1\n");
	if (!rc)
		rc = add_endpoint(b, p);
	if (!rc)
		rc = km_buf_addf(b,
				 "last_handshake_time_sec=%lld\nlast_handshake_time_nsec=%lld\n"
				 "tx_bytes=%llu\nrx_bytes=%llu\npersistent_keepalive_interval=%u\n",
				 (long long)(p->handshake_unix_ns / 1000000000),
				 (long long)(p->handshake_unix_ns % 1000000000),
				 (unsigned long long)atomic_load(&p->tx_bytes),
				 (unsigned long long)atomic_load(&p->rx_bytes), p->keepalive_s);
	for (size_t i = 0; !rc && i < p->n_allowed; i++)
		rc = add_allowed(b, &p->allowed[i]);
	return rc;
}

/* Peers may come and go while others are written: who is there now, by key. NULL: no memory. */
static uint8_t (*peer_keys(const struct wg_core *c))[WG_KEY]
{
	uint8_t(*keys)[WG_KEY] = calloc(c->n_peers + 1, sizeof(*keys));
	struct wg_peer *p, *tmp;
	size_t n = 0;

	if (keys != NULL)
		HASH_ITER (hh, c->peers, p, tmp)
			memcpy(keys[n++], p->remote.pub, WG_KEY);
	return keys;
}

static int add_peers(struct wg_engine *e, struct wg_core *c, struct km_buf *b)
{
	size_t n = c->n_peers;
	uint8_t(*keys)[WG_KEY] = peer_keys(c);
	struct wg_peer *p;
	int rc = keys ? 0 : KM_ENOMEM;

	for (size_t i = 0; !rc && i < n; i++) {
		if (i > 0)
			wg_engine_give_way(e);
		if ((p = wg_core_peer(c, keys[i])) != NULL)
			rc = add_peer(b, p);
	}
	free(keys);
	return rc;
}

static int get(struct wg_engine *e, struct km_buf *b)
{
	uint16_t port = wg_engine_port(e);
	uint32_t mark = wg_engine_mark(e);
	struct wg_core *c = wg_engine_lock(e);
	int rc = c->has_key ? add_key(b, "private_key", c->self.priv) : 0;

	if (!rc && port)
		rc = km_buf_addf(b, "listen_port=%u\n", port);
	if (!rc && mark)
		rc = km_buf_addf(b, "fwmark=%u\n", mark);
	if (!rc)
		rc = add_peers(e, c, b);
	wg_engine_unlock(e);
	return rc;
}

bool wg_uapi_answer(struct wg_engine *e, const char *request, size_t n, struct km_buf *reply)
{
	int error;

	if (n == 7 && !memcmp(request, "get=1\n\n", 7)) {
		error = errno_of(get(e, reply));
		if (error)
			km_buf_clear(reply);
	} else if (n >= 7 && !memcmp(request, "set=1\n", 6)) {
		error = set(e, request + 6, n - 6);
	} else {
		return false;
	}
	return km_buf_addf(reply, "errno=%d\n\n", -error) == 0;
}
