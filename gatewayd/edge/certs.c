/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/certs.h"
#include "gatewayd/acme/cache.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uthash.h>
#include <utlist.h>

#define SHARDS 16
#define SHARDS_FROM 256 /* a cache smaller than this has one, so that its bound is exact */

enum kind { OWN, OWN_RSA, ACME, ACME_RSA, KINDS };

/* One file of a domain, or that there is none. */
struct part {
	bool looked, stale; /* stale: nobody may go on with it before looking again */
	struct cert *cert;  /* NULL: there is none, or it is bad */
	int rc;             /* then: why */
	char *why;
	struct timespec ctime; /* of the inode: a chmod is noticed too */
	off_t size;
	ino_t inode;
	int64_t checked_ms;
};

struct slot {
	char *domain;
	struct part part[KINDS];
	uint32_t turn;            /* certs_changed was called so often */
	struct slot *prev, *next; /* least recently used first */
	UT_hash_handle hh;
};

struct shard {
	pthread_mutex_t lock;
	struct slot *slots, *lru;
	size_t max, certs;
};

struct certs {
	char *own_dir, *acme_dir;
	size_t n_shards;
	struct shard shard[SHARDS];
	struct km_metric *kept, *loads, *evictions, *untimely;
	struct km_log_limit untimely_log;
};

struct certs *certs_new(const struct certs_opts *o)
{
	struct certs *c = calloc(1, sizeof(*c));
	size_t max = o->max ? o->max : CERTS_MAX;
	if (!c)
		return NULL;
	c->n_shards = max < SHARDS_FROM ? 1 : SHARDS;
	for (size_t i = 0; i < SHARDS; i++) {
		pthread_mutex_init(&c->shard[i].lock, NULL);
		c->shard[i].max = max / c->n_shards;
	}
	c->own_dir = strdup(o->own_dir);
	c->acme_dir = o->acme_dir ? strdup(o->acme_dir) : NULL;
	c->kept = km_metric(KM_METRIC_GAUGE, "kakuremichi_certificates_cached", "",
			    "Certificates of domains kept in memory.");
	c->loads = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_loads_total", "",
			     "Certificates read from disk.");
	c->evictions = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_evictions_total", "",
				 "Domains put out of memory to make room.");
	c->untimely = km_metric(
	    KM_METRIC_COUNTER, "kakuremichi_certificate_untimely_total", "",
	    "Handshakes served with a certificate out of its time, for want of a better.");
	if (c->own_dir && (c->acme_dir || !o->acme_dir))
		return c;
	certs_free(c);
	return NULL;
}

/* ---- slots, under their shard's lock ---- */

static void part_cert_set(struct certs *c, struct shard *h, struct part *p, struct cert *cert)
{
	size_t before = h->certs;
	h->certs += (cert != NULL) - (p->cert != NULL);
	km_metric_add(c->kept, (int64_t)h->certs - (int64_t)before);
	cert_put(p->cert);
	p->cert = cert;
}

static void slot_drop(struct certs *c, struct shard *h, struct slot *s)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): s is in it */
	HASH_DEL(h->slots, s);
	DL_DELETE(h->lru, s);
	for (size_t k = 0; k < KINDS; k++) {
		part_cert_set(c, h, &s->part[k], NULL);
		free(s->part[k].why);
	}
	free(s->domain);
	free(s);
}

void certs_free(struct certs *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < SHARDS; i++) {
		while (c->shard[i].lru)
			slot_drop(c, &c->shard[i], c->shard[i].lru);
		pthread_mutex_destroy(&c->shard[i].lock);
	}
	free(c->own_dir);
	free(c->acme_dir);
	free(c);
}

/* Names without any certificate count too, but weigh less. */
static bool over(const struct shard *h)
{
	return h->certs > h->max || HASH_COUNT(h->slots) > 2 * h->max;
}

/* Makes room, but not of s. */
static void make_room(struct certs *c, struct shard *h, const struct slot *s)
{
	while (over(h)) {
		struct slot *oldest = h->lru != s ? h->lru : s->next;
		if (!oldest)
			break;
		slot_drop(c, h, oldest);
		km_metric_add(c->evictions, 1);
	}
}

/* A name that is only looked at is the first to go again. */
static struct slot *slot_find(struct certs *c, struct shard *h, const char *domain, unsigned hash,
			      bool peek)
{
	struct slot *s;
	size_t n = strlen(domain);
	HASH_FIND_BYHASHVALUE(hh, h->slots, domain, n, hash, s);
	if (s) {
		if (!peek && s->next) {
			DL_DELETE(h->lru, s);
			DL_APPEND(h->lru, s);
		}
		return s;
	}
	if (!(s = calloc(1, sizeof(*s))) || !(s->domain = strdup(domain))) {
		free(s);
		return NULL;
	}
	HASH_ADD_KEYPTR_BYHASHVALUE(hh, h->slots, s->domain, n, hash, s);
	if (peek)
		DL_PREPEND(h->lru, s);
	else
		DL_APPEND(h->lru, s);
	make_room(c, h, s);
	return s;
}

/* ---- the disk, without a lock ---- */

/* What is found; owns cert. */
struct found {
	int rc;
	bool same; /* as the part has it */
	struct cert *cert;
	struct km_errtext err;
	struct stat st;
};

static bool same_file(const struct part *known, const struct stat *st)
{
	return known->looked && st->st_ino == known->inode && st->st_size == known->size &&
	       !memcmp(&st->st_ctim, &known->ctime, sizeof(known->ctime));
}

/* A stat has failed. That a disk cannot be read is not that the file is gone. */
static void none(struct found *f, const char *dir, const char *domain)
{
	bool gone = errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG;
	memset(&f->st, 0, sizeof(f->st));
	f->rc = km_errtext_set(&f->err, gone ? KM_ENOTFOUND : KM_EIO, "%s/%s: %s", dir, domain,
			       strerror(errno));
}

static void look_own(struct found *f, const char *dir, const char *domain, bool rsa,
		     const struct part *known)
{
	static const char *const endings[2][2] = {{"", ".pem"}, {"+rsa", "+rsa.pem"}};
	char path[4096];
	for (size_t i = 0; i < KM_ARRAY_LEN(endings[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s%s", dir, domain, endings[rsa][i]);
		if (stat(path, &f->st))
			continue;
		if ((f->same = same_file(known, &f->st)))
			return;
		f->rc = S_ISREG(f->st.st_mode)
			    ? cert_load(&f->cert, path, &f->err)
			    : km_errtext_set(&f->err, KM_EINVAL, "%s: no file", path);
		if (f->cert)
			f->cert->own = true;
		return;
	}
	none(f, dir, domain);
}

static void look_acme(struct found *f, const char *dir, const char *domain, bool rsa,
		      const struct part *known)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s%s", dir, domain, rsa ? "+rsa" : "");
	if (lstat(path, &f->st))
		none(f, dir, domain);
	else if (!(f->same = same_file(known, &f->st)))
		f->rc = cache_load(dir, domain, rsa, &f->cert, &f->err);
}

static void look(struct certs *c, struct found *f, const char *domain, enum kind k,
		 const struct part *known)
{
	*f = (struct found){0};
	if (k < ACME)
		look_own(f, c->own_dir, domain, k == OWN_RSA, known);
	else
		look_acme(f, c->acme_dir, domain, k == ACME_RSA, known);
	if (f->cert)
		km_metric_add(c->loads, 1);
}

/* ---- looking again, with the lock, given up meanwhile ---- */

static void part_take(struct certs *c, struct shard *h, struct part *p, struct found *f, bool own)
{
	if (same_file(p, &f->st) && f->st.st_ino)
		return; /* another thread was faster: all share what it loaded */
	if (!own && f->rc == KM_ENOTFOUND && p->rc == KM_EINVAL && p->cert)
		return; /* a bad file took the place of what we have, and was set aside */
	p->ctime = f->st.st_ctim;
	p->size = f->st.st_size;
	p->inode = f->st.st_ino;
	free(p->why);
	p->why = f->rc && f->rc != KM_ENOTFOUND ? strdup(f->err.text) : NULL;
	p->rc = f->rc;
	if (f->cert || f->rc == KM_ENOTFOUND) {
		part_cert_set(c, h, p, f->cert);
		f->cert = NULL;
	}
}

/* The slot of the domain with what is on disk now for this kind, or was CERTS_RECHECK_MS ago. NULL:
 * no memory. */
static struct slot *slot_fresh(struct certs *c, struct shard *h, const char *domain, unsigned hash,
			       enum kind k, const struct certs_ask *ask)
{
	for (int tries = 0;; tries++) {
		struct slot *s = slot_find(c, h, domain, hash, ask->peek);
		struct part *p = s ? &s->part[k] : NULL;
		if (!s ||
		    (p->looked && !p->stale && ask->now_ms - p->checked_ms < CERTS_RECHECK_MS))
			return s;
		p->checked_ms = ask->now_ms; /* unless stale, others go on with what there is */
		struct part known = *p;
		struct found f;
		uint32_t turn = s->turn;
		pthread_mutex_unlock(&h->lock);
		look(c, &f, domain, k, &known);
		pthread_mutex_lock(&h->lock);
		s = slot_find(c, h, domain, hash, ask->peek);
		p = s ? &s->part[k] : NULL;
		/* Changed, or dropped from memory, in the meantime? */
		bool again = s && ((s->turn != turn && tries < 3) || (f.same && !p->looked));
		if (s && !again) {
			if (!f.same)
				part_take(c, h, p, &f, k < ACME);
			p->looked = true;
			p->stale = false;
			p->checked_ms = ask->now_ms;
			make_room(c, h, s);
		}
		cert_put(f.cert);
		if (!again)
			return s;
	}
}

/* ---- the choice ---- */

struct choice {
	struct cert *cert;
	int score; /* 3: in its time and of use to this client; 2: of use; 1: in its time */
	int rc;    /* of the first file that is there but bad, else KM_ENOTFOUND */
};

static void consider(struct certs *c, const struct certs_ask *ask, const char *domain,
		     enum kind from, struct choice *best, struct km_errtext *err)
{
	unsigned hash;
	HASH_VALUE(domain, strlen(domain), hash);
	struct shard *h = &c->shard[(hash >> 28) % c->n_shards];
	pthread_mutex_lock(&h->lock);
	for (int i = 0; i < 2 && best->score < 3; i++) {
		/* The plain name first; for a client without ECDSA the other. */
		enum kind k = from + (ask->ecdsa ? i : 1 - i);
		struct slot *s = slot_fresh(c, h, domain, hash, k, ask);
		if (!s) {
			best->rc = km_errtext_set(err, KM_ENOMEM, "no memory");
			break;
		}
		const struct part *p = &s->part[k];
		if (!p->cert) {
			if (p->rc != KM_ENOTFOUND && best->rc == KM_ENOTFOUND)
				best->rc = km_errtext_set(err, p->rc, "%s",
							  p->why ? p->why : km_strerror(p->rc));
			continue;
		}
		int score =
		    (ask->ecdsa || p->cert->rsa ? 2 : 0) + cert_in_time(p->cert, ask->wall_ms);
		if (best->cert && score <= best->score)
			continue;
		cert_put(best->cert);
		best->cert = cert_ref(p->cert);
		best->score = score;
	}
	pthread_mutex_unlock(&h->lock);
}

static void note_untimely(struct certs *c, const struct certs_ask *ask)
{
	uint32_t held;
	km_metric_add(c->untimely, 1);
	if (km_log_allow(&c->untimely_log, ask->now_ms, 5, 60000, &held))
		km_warn("certificate out of its time is served", km_ks("host", ask->host),
			km_ki("held", held));
}

int certs_for_host(struct certs *c, const struct certs_ask *ask, struct cert **out,
		   struct km_errtext *err)
{
	struct choice best = {.rc = KM_ENOTFOUND};
	const char *names[2] = {0};
	char star[ROUTE_DOMAIN_MAX + 3];
	const char *parent = strchr(ask->host, '.');
	*out = NULL;
	km_errtext_set(err, KM_ENOTFOUND, "there is no certificate for %s", ask->host);
	if (!ask->wildcard || ask->host[0] == '*')
		names[0] = ask->host;
	if (parent && ask->host[0] != '*') {
		snprintf(star, sizeof(star), "*%s", parent);
		names[1] = star;
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(names); i++)
		if (names[i] && best.score < 3 && route_domain_ok(names[i]))
			consider(c, ask, names[i], OWN, &best, err);
	for (size_t i = 0; ask->mode == ROUTE_TLS_AUTO && c->acme_dir && i < KM_ARRAY_LEN(names);
	     i++)
		if (names[i] && best.score < 3 && route_domain_ok(names[i]))
			consider(c, ask, names[i], ACME, &best, err);
	if (!best.cert)
		return best.rc;
	if (!(best.score & 1) && !ask->peek)
		note_untimely(c, ask);
	*out = best.cert;
	return 0;
}

void certs_changed(struct certs *c, const char *domain)
{
	struct slot *s;
	unsigned hash;
	HASH_VALUE(domain, strlen(domain), hash);
	struct shard *h = &c->shard[(hash >> 28) % c->n_shards];
	pthread_mutex_lock(&h->lock);
	HASH_FIND_BYHASHVALUE(hh, h->slots, domain, strlen(domain), hash, s);
	if (s) {
		s->turn++;
		for (enum kind k = ACME; k <= ACME_RSA; k++) {
			s->part[k].stale = true;
			if (s->part[k].cert)
				s->part[k].rc = 0; /* one that is gone now is gone on purpose */
		}
	}
	pthread_mutex_unlock(&h->lock);
}
