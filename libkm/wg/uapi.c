/* SPDX-License-Identifier: MIT */
#include "libkm/wg/uapi.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int add_key(struct km_buf *b, const char *name, const uint8_t *key)
{
	char hex[KM_WG_KEY_LEN * 2 + 1];
	int rc = km_buf_addf(b, "%s=%s\n", name, km_hex(key, KM_WG_KEY_LEN, hex));

	km_wipe(hex, sizeof(hex));
	return rc;
}

int km_uapi_set_device(struct km_buf *b, const uint8_t private_key[static KM_WG_KEY_LEN],
		       uint16_t port)
{
	int rc = km_buf_adds(b, "set=1\n");

	if (!rc)
		rc = add_key(b, "private_key", private_key);
	if (!rc && port)
		rc = km_buf_addf(b, "listen_port=%u\n", port);
	return rc ? rc : km_buf_adds(b, "\n");
}

static int add_endpoint(struct km_buf *b, const struct sockaddr_storage *ss)
{
	char text[KM_ENDPOINT_STRLEN];
	struct km_addr a;
	uint16_t port;
	int rc = km_addr_from_sa(&a, &port, (const struct sockaddr *)ss);

	return rc ? rc : km_buf_addf(b, "endpoint=%s\n", km_endpoint_str(&a, port, text));
}

static int add_allowed(struct km_buf *b, const struct km_wg_change *c)
{
	char text[KM_PREFIX_STRLEN];
	int rc = c->replace_allowed ? km_buf_adds(b, "replace_allowed_ips=true\n") : 0;

	for (uint8_t i = 0; !rc && i < c->n_allowed; i++)
		rc = km_buf_addf(b, "allowed_ip=%s/%u\n", km_addr_str(&c->allowed[i].addr, text),
				 c->allowed[i].bits);
	return rc;
}

int km_uapi_set_peer(struct km_buf *b, const struct km_wg_change *c)
{
	int rc = km_buf_adds(b, "set=1\n");

	if (!rc)
		rc = add_key(b, "public_key", c->key);
	if (!rc)
		rc = add_allowed(b, c);
	if (!rc && c->set_endpoint)
		rc = add_endpoint(b, &c->endpoint);
	if (!rc && c->set_keepalive)
		rc = km_buf_addf(b, "persistent_keepalive_interval=%u\n", c->keepalive_s);
	return rc ? rc : km_buf_adds(b, "\n");
}

int km_uapi_remove_peer(struct km_buf *b, const uint8_t key[static KM_WG_KEY_LEN])
{
	int rc = km_buf_adds(b, "set=1\n");

	if (!rc)
		rc = add_key(b, "public_key", key);
	return rc ? rc : km_buf_adds(b, "remove=true\n\n");
}

bool km_uapi_complete(const char *text, size_t n)
{
	return n >= 2 && text[n - 2] == '\n' && text[n - 1] == '\n';
}

/* One `name=value` line, both NUL-terminated copies. */
struct line {
	char name[40], value[80];
};

/* Takes the next line; false at the end or at the empty line. A longer name or value than any that
 * is known here is cut, and then means nothing to anybody. */
static bool next_line(struct km_cur *c, struct line *l)
{
	const uint8_t *end = c->left ? memchr(c->p, '\n', c->left) : NULL, *p, *eq;
	size_t len, name, value;

	if (!end || end == c->p)
		return false;
	len = (size_t)(end - c->p);
	p = km_cur_take(c, len + 1);
	eq = memchr(p, '=', len);
	name = eq ? (size_t)(eq - p) : len;
	value = eq ? len - name - 1 : 0;
	if (name >= sizeof(l->name))
		name = sizeof(l->name) - 1;
	if (value >= sizeof(l->value))
		value = sizeof(l->value) - 1;
	memcpy(l->name, p, name);
	l->name[name] = 0;
	if (value)
		memcpy(l->value, eq + 1, value);
	l->value[value] = 0;
	return true;
}

static int number(const char *s, uint64_t *out)
{
	char *end;

	if (*s < '0' || *s > '9')
		return KM_EPROTO;
	errno = 0;
	*out = strtoull(s, &end, 10);
	return *end || errno ? KM_EPROTO : 0;
}

int km_uapi_errno(const char *text, size_t n)
{
	struct km_cur c = km_cur_of(text, n);
	struct line l;
	uint64_t v;

	while (next_line(&c, &l)) {
		if (strcmp(l.name, "errno"))
			continue;
		if (number(l.value[0] == '-' ? l.value + 1 : l.value, &v) || v > 4095)
			return KM_EPROTO;
		return (int)v;
	}
	return KM_EPROTO;
}

static int peer_line(struct km_wg_peer_status *p, const struct line *l)
{
	struct km_hostport hp;
	uint64_t v;

	if (!strcmp(l->name, "endpoint")) {
		if (km_hostport_parse(&hp, l->value, NULL) || !hp.is_addr)
			return 0; /* e.g. an address with a zone: as if none was known */
		p->has_endpoint = true;
		km_addr_to_sa(&p->endpoint, &hp.addr, hp.port);
		return 0;
	}
	if (!strcmp(l->name, "last_handshake_time_sec")) {
		if (number(l->value, &v) || v > INT64_MAX / 2000)
			return KM_EPROTO;
		p->last_handshake_ms += (int64_t)v * 1000;
	} else if (!strcmp(l->name, "last_handshake_time_nsec")) {
		if (number(l->value, &v) || v >= 1000000000)
			return KM_EPROTO;
		p->last_handshake_ms += (int64_t)v / 1000000;
	} else if (!strcmp(l->name, "rx_bytes")) {
		return number(l->value, &p->rx_bytes);
	} else if (!strcmp(l->name, "tx_bytes")) {
		return number(l->value, &p->tx_bytes);
	}
	return 0;
}

int km_uapi_peers(const char *text, size_t n, struct km_wg_peer_status **out, size_t *n_out)
{
	struct km_cur c = km_cur_of(text, n);
	struct km_wg_peer_status *peers = NULL, *more;
	size_t used = 0, room = 0;
	struct line l;
	int rc = 0;

	while (!rc && next_line(&c, &l)) {
		if (strcmp(l.name, "public_key")) {
			rc = used ? peer_line(&peers[used - 1], &l) : 0;
			continue;
		}
		if (used == room) {
			room = room ? room * 2 : 16;
			more = realloc(peers, room * sizeof(*peers));
			if (!more) {
				rc = KM_ENOMEM;
				break;
			}
			peers = more;
		}
		memset(&peers[used], 0, sizeof(*peers));
		rc = km_unhex(peers[used++].key, KM_WG_KEY_LEN, l.value) ? KM_EPROTO : 0;
	}
	if (rc) {
		free(peers);
		return rc;
	}
	*out = peers;
	*n_out = used;
	return 0;
}
