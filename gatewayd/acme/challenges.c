/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/challenges.h"
#include "gatewayd/acme/client.h"
#include "gatewayd/route/route.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#define SNI_MAX 80 /* of an IPv6 address under ip6.arpa: 72 */

struct open_one {
	struct challenge ch;
	int64_t expires_ms;
	bool ip;
	struct km_addr addr; /* then */
	X509 *cert;          /* of tls-alpn-01 */
	EVP_PKEY *key;
	struct same_name *same;
	struct open_one *prev, *next; /* of the same name, the latest first */
	UT_hash_handle hh;            /* by token */
};

/* The tls-alpn-01 challenges of one server name: two gateways may have one open each. */
struct same_name {
	char *sni;
	struct open_one *all;
	UT_hash_handle hh;
};

struct challenges {
	_Atomic uint32_t n; /* looked at before the lock is taken */
	pthread_rwlock_t lock;
	struct open_one *by_token;
	struct same_name *by_name;
	void (*served)(void *arg, const char *token);
	void *arg;
};

struct challenges *challenges_new(void (*served)(void *arg, const char *token), void *arg)
{
	struct challenges *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	pthread_rwlock_init(&c->lock, NULL);
	c->served = served;
	c->arg = arg;
	return c;
}

/* ---- what is a challenge ---- */

static bool b64url(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!(s[i] >= 'a' && s[i] <= 'z') && !(s[i] >= 'A' && s[i] <= 'Z') &&
		    !(s[i] >= '0' && s[i] <= '9') && s[i] != '-' && s[i] != '_')
			return false;
	return n > 0;
}

static bool ends_within(const char *s, size_t size)
{
	return memchr(s, '\0', size) != NULL;
}

/* token "." thumbprint, RFC 8555 section 8.1. */
static bool key_auth_ok(const struct challenge *ch)
{
	size_t n = strlen(ch->token);
	return !strncmp(ch->key_auth, ch->token, n) && ch->key_auth[n] == '.' &&
	       b64url(ch->key_auth + n + 1, strlen(ch->key_auth + n + 1));
}

static bool challenge_ok(const struct challenge *ch, struct open_one *o)
{
	if (!ends_within(ch->name, sizeof(ch->name)) ||
	    !ends_within(ch->token, sizeof(ch->token)) ||
	    !ends_within(ch->key_auth, sizeof(ch->key_auth)) ||
	    (ch->type != CHALLENGE_HTTP && ch->type != CHALLENGE_ALPN_TLS) ||
	    !b64url(ch->token, strlen(ch->token)) || !key_auth_ok(ch))
		return false;
	o->ip = km_addr_parse(&o->addr, ch->name) == 0;
	return o->ip || (route_domain_ok(ch->name) && ch->name[0] != '*');
}

/* The server name by which the CA asks for it: an address's is its reverse name (RFC 8738 section 6). */
static void sni_of(const struct open_one *o, char *out, size_t size)
{
	const uint8_t *ip = o->addr.ip;
	size_t at = 0;
	if (!o->ip) {
		snprintf(out, size, "%s", o->ch.name);
	} else if (o->addr.family == AF_INET) {
		snprintf(out, size, "%d.%d.%d.%d.in-addr.arpa", ip[3], ip[2], ip[1], ip[0]);
	} else {
		for (int i = 15; i >= 0; i--)
			at += (size_t)snprintf(out + at, size - at, "%x.%x.", ip[i] & 15, ip[i] >> 4);
		snprintf(out + at, size - at, "ip6.arpa");
	}
}

/* ---- the main loop's side ---- */

static void name_leave(struct challenges *c, struct open_one *o)
{
	struct same_name *s = o->same;
	if (!s)
		return;
	DL_DELETE(s->all, o);
	o->same = NULL;
	if (s->all)
		return;
	HASH_DEL(c->by_name, s);
	free(s->sni);
	free(s);
}

static int name_join(struct challenges *c, struct open_one *o)
{
	char sni[sizeof(o->ch.name) + SNI_MAX];
	struct same_name *s;
	sni_of(o, sni, sizeof(sni));
	HASH_FIND_STR(c->by_name, sni, s);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s || !(s->sni = strdup(sni))) {
			free(s);
			return KM_ENOMEM;
		}
		HASH_ADD_KEYPTR(hh, c->by_name, s->sni, strlen(s->sni), s);
	}
	DL_PREPEND(s->all, o);
	o->same = s;
	return 0;
}

static void one_free(struct open_one *o)
{
	if (!o)
		return;
	X509_free(o->cert);
	EVP_PKEY_free(o->key);
	free(o);
}

static void one_close(struct challenges *c, struct open_one *o)
{
	name_leave(c, o);
	HASH_DEL(c->by_token, o);
	atomic_fetch_sub_explicit(&c->n, 1, memory_order_relaxed);
	one_free(o);
}

void challenges_free(struct challenges *c)
{
	if (!c)
		return;
	struct open_one *o, *tmp;
	HASH_ITER (hh, c->by_token, o, tmp)
		one_close(c, o);
	pthread_rwlock_destroy(&c->lock);
	free(c);
}

/* Puts it in, in place of an older one of its token. */
static int one_put(struct challenges *c, struct open_one *o)
{
	struct open_one *was;
	int rc;
	HASH_FIND_STR(c->by_token, o->ch.token, was);
	if (!was && HASH_COUNT(c->by_token) >= CHALLENGES_MAX)
		return KM_EFULL;
	if (o->ch.type == CHALLENGE_ALPN_TLS && (rc = name_join(c, o)))
		return rc;
	if (was)
		one_close(c, was);
	HASH_ADD_STR(c->by_token, ch.token, o);
	atomic_fetch_add_explicit(&c->n, 1, memory_order_relaxed);
	return 0;
}

int challenges_open(struct challenges *c, const struct challenge *ch, int64_t expires_ms)
{
	struct open_one *o = calloc(1, sizeof(*o));
	int rc = KM_EINVAL;
	if (!o)
		return KM_ENOMEM;
	if (!challenge_ok(ch, o))
		goto fail;
	o->ch = *ch;
	o->expires_ms = expires_ms;
	/* Made here and not when it is asked for, so that a stranger makes nobody work. */
	if (ch->type == CHALLENGE_ALPN_TLS &&
	    (rc = acme_alpn_cert(&o->cert, &o->key, ch->name, ch->key_auth)))
		goto fail;
	pthread_rwlock_wrlock(&c->lock);
	rc = one_put(c, o);
	pthread_rwlock_unlock(&c->lock);
	if (!rc)
		return 0;
fail:
	one_free(o);
	return rc;
}

void challenges_close(struct challenges *c, const char *token)
{
	struct open_one *o;
	pthread_rwlock_wrlock(&c->lock);
	HASH_FIND_STR(c->by_token, token, o);
	if (o)
		one_close(c, o);
	pthread_rwlock_unlock(&c->lock);
}

void challenges_tidy(struct challenges *c, int64_t now_ms)
{
	struct open_one *o, *tmp;
	pthread_rwlock_wrlock(&c->lock);
	HASH_ITER (hh, c->by_token, o, tmp)
		if (o->expires_ms <= now_ms)
			one_close(c, o);
	pthread_rwlock_unlock(&c->lock);
}

size_t challenges_count(const struct challenges *c)
{
	return HASH_COUNT(c->by_token);
}

/* Only the thread that calls this changes the table: it needs no lock to look at it. */
void challenges_each(struct challenges *c, void (*each)(void *arg, const struct challenge *ch),
		     void *arg)
{
	struct open_one *o, *tmp;
	HASH_ITER (hh, c->by_token, o, tmp)
		each(arg, &o->ch);
}

/* ---- any thread ---- */

static bool none_open(struct challenges *c)
{
	return !atomic_load_explicit(&c->n, memory_order_relaxed);
}

static bool is_for_host(const struct open_one *o, const char *host)
{
	char inner[KM_ADDR_STRLEN];
	struct km_addr a;
	size_t n = strlen(host);
	if (!o->ip)
		return !strcmp(o->ch.name, host);
	if (host[0] == '[' && n >= 2 && n - 2 < sizeof(inner)) {
		snprintf(inner, sizeof(inner), "%.*s", (int)(n - 2), host + 1);
		host = inner;
	}
	return !km_addr_parse(&a, host) && km_addr_eq(&a, &o->addr);
}

bool challenges_http(struct challenges *c, const char *host, const char *token, size_t n,
		     char out[static CHALLENGE_KEY_AUTH_MAX + 1])
{
	char name[CHALLENGE_TOKEN_MAX + 1];
	struct open_one *o;
	if (none_open(c) || n > CHALLENGE_TOKEN_MAX || !b64url(token, n))
		return false;
	snprintf(name, sizeof(name), "%.*s", (int)n, token);
	pthread_rwlock_rdlock(&c->lock);
	HASH_FIND_STR(c->by_token, name, o);
	bool found = o && o->ch.type == CHALLENGE_HTTP && o->expires_ms > km_now_ms() &&
		     is_for_host(o, host);
	if (found)
		memcpy(out, o->ch.key_auth, sizeof(o->ch.key_auth));
	pthread_rwlock_unlock(&c->lock);
	if (found && c->served)
		c->served(c->arg, name);
	return found;
}

bool challenges_alpn(struct challenges *c, const char *sni, X509 **cert, EVP_PKEY **key)
{
	char token[CHALLENGE_TOKEN_MAX + 1];
	struct same_name *s;
	struct open_one *o;
	*cert = NULL;
	*key = NULL;
	if (none_open(c))
		return false;
	pthread_rwlock_rdlock(&c->lock);
	HASH_FIND_STR(c->by_name, sni, s);
	for (o = s ? s->all : NULL; o && o->expires_ms <= km_now_ms(); o = o->next)
		;
	if (o) {
		X509_up_ref(o->cert);
		EVP_PKEY_up_ref(o->key);
		*cert = o->cert;
		*key = o->key;
		memcpy(token, o->ch.token, sizeof(token));
	}
	pthread_rwlock_unlock(&c->lock);
	if (*cert && c->served)
		c->served(c->arg, token);
	return *cert != NULL;
}
