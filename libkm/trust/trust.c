/* SPDX-License-Identifier: MIT */
#include "libkm/trust/trust.h"
#include "libkm/base/util.h"
#include "libkm/cert/bundle.h"
#include "libkm/trust/times.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define BUNDLE "trust.pem"
#define TIMES "trust.times"
#define OWN "identity.pem"
#define SLOT_LEN (KM_UUID_STRLEN + 2)
#define BEHIND_S 60

/* A host that was admitted. */
struct admitted {
	char slot[SLOT_LEN]; /* kind, present or next, id */
	struct km_cert *cert;
	unsigned generation; /* of the pool that has verified it */
	UT_hash_handle hh;
};

struct km_trust {
	char *dir;
	uint8_t (*pins)[KM_CERT_FP_LEN];
	size_t n_pins;
	struct km_bundle *bundle;  /* NULL: none yet */
	struct km_cert_pool *pool; /* the bundle's */
	unsigned generation;
	struct km_times *times;
	struct km_cert *own;
	struct admitted *admitted;
	size_t n_borne; /* at the last review */
	int64_t left_s;
};

struct km_trust_clock km_trust_clock(void)
{
	return (struct km_trust_clock){km_wall_ms() / 1000, km_now_ms()};
}

/* ---- files ---- */

/* *text: NULL when there is no such file. */
static int read_file(const struct km_trust *t, const char *name, size_t max, char **text, size_t *n,
		     struct km_errtext *err)
{
	char *path = km_xasprintf("%s/%s", t->dir, name);
	int rc;

	*text = NULL;
	rc = km_file_read(path, max, text, n);
	if (rc == KM_EIO && errno == ENOENT)
		rc = 0;
	else if (rc)
		km_errtext_set(err, rc, "%s: %s", path,
			       km_why(rc));
	free(path);
	return rc;
}

static int write_file(const struct km_trust *t, const char *name, const void *p, size_t n,
		      struct km_errtext *err)
{
	char *path = km_xasprintf("%s/%s", t->dir, name);
	int rc = km_file_write(path, p, n, 0600);

	if (rc)
		km_errtext_set(err, rc, "%s: %s", path, strerror(errno));
	free(path);
	return rc;
}

/* ---- the bundle ---- */

/* Obeys b from now on; takes it over, also when it fails. */
static int obey(struct km_trust *t, struct km_bundle *b)
{
	struct km_cert_pool *pool = km_bundle_pool(b);

	if (!pool) {
		km_bundle_free(b);
		return KM_ENOMEM;
	}
	km_bundle_free(t->bundle);
	km_cert_pool_free(t->pool);
	t->bundle = b;
	t->pool = pool;
	t->generation++;
	return 0;
}

static int load_bundle(struct km_trust *t, struct km_errtext *err)
{
	struct km_errtext why = {""};
	struct km_bundle *b;
	char *text;
	size_t n;
	int rc = read_file(t, BUNDLE, KM_BUNDLE_PEM_MAX, &text, &n, err);

	if (rc || !text)
		return rc;
	rc = km_bundle_parse(&b, text, n, &why);
	if (rc)
		km_errtext_set(err, rc,
			       "%s/" BUNDLE
			       ": %s; nobody can be believed: remove it to take the bundle "
			       "from control anew",
			       t->dir, why.text);
	else
		rc = obey(t, b);
	free(text);
	return rc;
}

/* The first bundle: one of the pinned CAs is in it and has signed it. */
static int first_ok(const struct km_trust *t, const struct km_bundle *b, struct km_cert_when when,
		    struct km_errtext *err)
{
	struct km_bundle *pinned = NULL;
	const struct km_cert *ca = NULL;
	int rc;

	if (t->n_pins == 0)
		return 0;
	for (size_t i = 0; i < t->n_pins && !ca; i++)
		if (b->is_signed && memcmp(b->signer, t->pins[i], KM_CERT_FP_LEN) == 0)
			ca = km_bundle_find(b, t->pins[i]);
	if (!ca)
		return km_errtext_set(err, KM_EAUTH,
				      "the trust bundle is not signed by the CA that ca_pin names");
	rc = km_bundle_new(&pinned, 0, &ca, 1, NULL, 0, err);
	if (!rc)
		rc = km_bundle_check(b, pinned, when, err);
	km_bundle_free(pinned);
	return rc;
}

static int keep_bundle(struct km_trust *t, struct km_bundle *b, struct km_errtext *err)
{
	struct km_buf text;
	int rc;

	km_buf_init(&text, KM_BUNDLE_PEM_MAX);
	rc = km_bundle_format(&text, b);
	if (!rc)
		rc = write_file(t, BUNDLE, km_buf_head(&text), text.len, err);
	km_buf_free(&text);
	if (rc) {
		km_bundle_free(b);
		return rc;
	}
	return obey(t, b);
}

int km_trust_take(struct km_trust *t, const char *bundle, struct km_trust_clock now, bool *changed,
		  struct km_errtext *err)
{
	/* A CA that has signed may have expired since, and a clock may be wrong. */
	const struct km_cert_when when = KM_CERT_ANY_TIME;
	struct km_bundle *offered = NULL, *merged = NULL;
	int rc, kept = 0;

	(void)now;
	*changed = false;
	rc = km_bundle_parse(&offered, bundle, strlen(bundle), err);
	if (rc)
		return rc;
	if (!t->bundle) {
		rc = first_ok(t, offered, when, err);
		if (!rc) {
			merged = offered;
			offered = NULL;
		}
	} else {
		rc = km_bundle_accept(t->bundle, offered, when, &merged, NULL, err);
	}
	if (merged) {
		kept = keep_bundle(t, merged, err);
		*changed = kept == 0;
	}
	km_bundle_free(offered);
	return kept ? kept : rc;
}

bool km_trust_ready(const struct km_trust *t)
{
	return t->bundle != NULL;
}

uint64_t km_trust_number(const struct km_trust *t)
{
	return t->bundle ? t->bundle->number : 0;
}

/* ---- one peer ---- */

static void slot_of(char out[static SLOT_LEN], bool gateway, bool next, const char *id)
{
	snprintf(out, SLOT_LEN, "%c%c%s", gateway ? 'g' : 'a', next ? 'n' : 'p', id);
}

static struct admitted *find(const struct km_trust *t, bool gateway, bool next, const char *id)
{
	char slot[SLOT_LEN];
	struct admitted *a;

	slot_of(slot, gateway, next, id);
	HASH_FIND_STR(t->admitted, slot, a);
	return a;
}

/* Whether the certificate gives this address, or the subnet around it. */
static bool names(const struct km_cert *c, const struct km_prefix *p)
{
	uint8_t all = p->addr.family == AF_INET ? 32 : 128;

	for (size_t i = 0; i < c->n_networks; i++)
		if (p->bits == all && km_addr_eq(&c->networks[i].addr, &p->addr))
			return true;
	for (size_t i = 0; i < c->n_unsafe_networks; i++)
		if (p->bits >= c->unsafe_networks[i].bits &&
		    km_prefix_has(&c->unsafe_networks[i], &p->addr))
			return true;
	return false;
}

/* Whether it is this host's: key, group, addresses. */
static int about(const struct km_cert *c, const struct km_trust_peer *p, struct km_errtext *err)
{
	const char *group = p->gateway ? KM_TRUST_GROUP_GATEWAY : KM_TRUST_GROUP_AGENT;
	char key[KM_WG_KEY_STRLEN], prefix[KM_PREFIX_STRLEN];

	if (c->curve != KM_CERT_25519 || c->public_key_len != KM_WG_KEY_LEN ||
	    memcmp(c->public_key, p->key, KM_WG_KEY_LEN) != 0)
		return km_errtext_set(err, KM_EAUTH,
				      "its certificate is for another WireGuard key than %s",
				      km_wg_key_str(p->key, key));
	if (!km_cert_has_group(c, group))
		return km_errtext_set(err, KM_EAUTH,
				      "its certificate does not say that it is %s %s",
				      p->gateway ? "a" : "an", group);
	for (size_t i = 0; i < p->n_allowed; i++)
		if (!names(c, &p->allowed[i]))
			return km_errtext_set(err, KM_EAUTH, "its certificate does not give it %s",
					      km_prefix_str(&p->allowed[i], prefix));
	return 0;
}

static bool soft(int rc)
{
	return rc == KM_CERT_EEXPIRED || rc == KM_CERT_ECA_EXPIRED;
}

/* Validity of one that was verified in the present pool. 0, with a warning in err when it is borne
 * with. */
static int timely(struct km_trust *t, const struct km_cert *c, struct km_trust_clock now,
		  struct km_errtext *err)
{
	const struct km_cert_when when = {now.wall_s, INT64_MAX, 0};
	struct km_errtext why = {""};
	int64_t left;
	int rc = km_cert_verify_time(t->pool, c, when, &why);

	if (!soft(rc)) {
		km_times_fine(t->times, c->fingerprint);
		return rc ? km_errtext_set(err, rc, "%s", why.text) : 0;
	}
	if (!km_times_bear(t->times, c->fingerprint, now.mono_ms, &left))
		return km_errtext_set(err, rc, "%s, and the grace time is over", why.text);
	t->n_borne++;
	if (t->left_s < 0 || left < t->left_s)
		t->left_s = left;
	km_errtext_set(err, 0, "%s; borne with for %lld more seconds", why.text, (long long)left);
	return 0;
}

static int verify(struct km_trust *t, const struct km_cert *c, const struct km_trust_peer *p,
		  struct km_trust_clock now, struct km_errtext *err)
{
	int rc = km_cert_verify(t->pool, c, KM_CERT_ANY_TIME, err);

	if (!rc)
		rc = about(c, p, err);
	return rc ? rc : timely(t, c, now, err);
}

/* Remembers it; takes the certificate over. */
static int remember(struct km_trust *t, const struct km_trust_peer *p, struct km_cert *c)
{
	struct admitted *a = find(t, p->gateway, p->next, p->id);

	if (!a) {
		a = calloc(1, sizeof(*a));
		if (!a) {
			km_cert_free(c);
			return KM_ENOMEM;
		}
		slot_of(a->slot, p->gateway, p->next, p->id);
		HASH_ADD_STR(t->admitted, slot, a);
	}
	if (a->cert && memcmp(a->cert->fingerprint, c->fingerprint, KM_CERT_FP_LEN) != 0)
		km_times_fine(t->times, a->cert->fingerprint);
	km_cert_free(a->cert);
	a->cert = c;
	a->generation = t->generation;
	return 0;
}

static int judge(struct km_trust *t, const struct km_trust_peer *p, struct km_trust_clock now,
		 struct km_errtext *err)
{
	struct km_cert *c = NULL;
	int rc;

	if (!t->bundle)
		return km_errtext_set(err, KM_EAUTH, "there is no trust bundle yet");
	if (!p->certificate || !*p->certificate)
		return km_errtext_set(err, KM_EAUTH, "it has no certificate");
	rc = km_cert_from_text(&c, p->certificate, err);
	if (!rc)
		rc = verify(t, c, p, now, err);
	if (rc) {
		km_cert_free(c);
		return rc;
	}
	if (!err->text[0] && strcmp(c->name, p->name) != 0)
		km_errtext_set(err, 0, "its certificate names it %s", c->name);
	return remember(t, p, c);
}

int km_trust_admit(struct km_trust *t, const struct km_trust_peer *p, struct km_trust_clock now,
		   struct km_errtext *err)
{
	struct km_errtext why = {""};
	int rc = judge(t, p, now, &why);

	km_errtext_set(err, rc, "%s", "");
	if (rc || why.text[0])
		km_errtext_set(err, rc, "%s %s: %s%s", p->gateway ? "gateway" : "agent", p->name,
			       p->next ? "its next key: " : "", why.text);
	return rc;
}

bool km_trust_admitted(const struct km_trust *t, bool gateway, bool next, const char *id)
{
	return find(t, gateway, next, id) != NULL;
}

bool km_trust_fingerprints(const struct km_trust *t, bool gateway, bool next, const char *id,
			   uint8_t fp[static 2][KM_CERT_FP_LEN])
{
	const struct admitted *a = find(t, gateway, next, id);

	if (!a)
		return false;
	memcpy(fp[0], a->cert->fingerprint, KM_CERT_FP_LEN);
	memcpy(fp[1], a->cert->fingerprint2, KM_CERT_FP_LEN);
	return true;
}

bool km_trust_blocks(const struct km_trust *t, const uint8_t fp[static KM_CERT_FP_LEN])
{
	return t->bundle && km_bundle_blocks(t->bundle, fp);
}

static void drop(struct km_trust *t, struct admitted *a)
{
	HASH_DEL(t->admitted, a);
	km_times_fine(t->times, a->cert->fingerprint);
	km_cert_free(a->cert);
	free(a);
}

void km_trust_forget(struct km_trust *t, bool gateway, bool next, const char *id)
{
	struct admitted *a = find(t, gateway, next, id);

	if (a)
		drop(t, a);
}

static int look_again(struct km_trust *t, struct admitted *a, struct km_trust_clock now,
		      struct km_errtext *err)
{
	int rc = 0;

	if (a->generation != t->generation)
		rc = km_cert_verify(t->pool, a->cert, KM_CERT_ANY_TIME, err);
	a->generation = t->generation;
	return rc ? rc : timely(t, a->cert, now, err);
}

void km_trust_review(struct km_trust *t, struct km_trust_clock now, km_trust_gone_cb *gone,
		     void *arg)
{
	struct admitted *a, *next;
	struct km_errtext why;
	char slot[SLOT_LEN];

	t->n_borne = 0;
	t->left_s = -1;
	HASH_ITER (hh, t->admitted, a, next) {
		why.text[0] = 0;
		if (look_again(t, a, now, &why) == 0)
			continue;
		memcpy(slot, a->slot, sizeof(slot));
		/* Its grace time stays counted: it may be offered again. */
		HASH_DEL(t->admitted, a);
		km_cert_free(a->cert);
		free(a);
		gone(arg, slot[0] == 'g', slot[1] == 'n', slot + 2, &why);
	}
}

size_t km_trust_borne(const struct km_trust *t, int64_t *left_s)
{
	*left_s = t->left_s < 0 ? 0 : t->left_s;
	return t->n_borne;
}

/* ---- this host itself ---- */

int km_trust_set_own(struct km_trust *t, const char *certificate, struct km_errtext *err)
{
	struct km_cert *c = NULL;
	int rc = 0;

	if (certificate && *certificate)
		rc = km_cert_from_text(&c, certificate, err);
	if (!rc && (c || t->own) &&
	    !(c && t->own && memcmp(c->fingerprint, t->own->fingerprint, KM_CERT_FP_LEN) == 0))
		rc = write_file(t, OWN, certificate ? certificate : "",
				certificate ? strlen(certificate) : 0, err);
	if (rc) {
		km_cert_free(c);
		return rc;
	}
	km_cert_free(t->own);
	t->own = c;
	return 0;
}

const struct km_cert *km_trust_own(const struct km_trust *t)
{
	return t->own;
}

static int load_own(struct km_trust *t, struct km_errtext *err)
{
	char *text;
	size_t n;
	int rc = read_file(t, OWN, KM_CERT_PEM_MAX, &text, &n, err);

	if (!rc && text && *text && km_cert_from_text(&t->own, text, NULL))
		t->own = NULL; /* control will send it again */
	free(text);
	return rc;
}

/* ---- life ---- */

static int load_times(struct km_trust *t, struct km_errtext *err)
{
	char *text;
	size_t n;
	int rc = read_file(t, TIMES, KM_TIMES_MAX, &text, &n, err);

	if (!rc && text)
		rc = km_times_parse(t->times, text) == KM_ENOMEM ? KM_ENOMEM : 0;
	free(text);
	return rc;
}

bool km_trust_behind(const struct km_trust *t, struct km_trust_clock now)
{
	return now.wall_s < km_times_saved(t->times) - BEHIND_S;
}

int km_trust_save(struct km_trust *t, struct km_trust_clock now)
{
	struct km_buf text;
	int rc;

	km_buf_init(&text, KM_TIMES_MAX);
	rc = km_times_format(t->times, &text, now.wall_s, now.mono_ms);
	if (!rc)
		rc = write_file(t, TIMES, km_buf_head(&text), text.len, NULL);
	km_buf_free(&text);
	return rc;
}

static int take_pins(struct km_trust *t, const struct km_strlist *pins, struct km_errtext *err)
{
	if (!pins || pins->n == 0)
		return 0;
	t->pins = km_xcalloc(pins->n, sizeof(*t->pins));
	for (; t->n_pins < pins->n; t->n_pins++)
		if (km_cert_fp_parse(t->pins[t->n_pins], pins->items[t->n_pins]))
			return km_errtext_set(err, KM_EINVAL,
					      "ca_pin %s: not a certificate's fingerprint (64 "
					      "hexadecimal digits)",
					      pins->items[t->n_pins]);
	return 0;
}

int km_trust_open(struct km_trust **out, const struct km_trust_opts *opts,
		  struct km_trust_clock now, struct km_errtext *err)
{
	struct km_trust *t = km_xcalloc(1, sizeof(*t));
	int rc;

	t->dir = km_xstrdup(opts->state_dir);
	t->left_s = -1;
	t->times = km_times_new(opts->grace_s, now.mono_ms);
	rc = t->times ? take_pins(t, opts->pins, err) : KM_ENOMEM;
	if (!rc)
		rc = load_times(t, err);
	if (!rc)
		rc = load_bundle(t, err);
	if (!rc)
		rc = load_own(t, err);
	if (rc) {
		km_trust_free(t);
		t = NULL;
	}
	*out = t;
	return rc;
}

void km_trust_free(struct km_trust *t)
{
	struct admitted *a, *next;

	if (!t)
		return;
	HASH_ITER (hh, t->admitted, a, next) {
		HASH_DEL(t->admitted, a);
		km_cert_free(a->cert);
		free(a);
	}
	km_bundle_free(t->bundle);
	km_cert_pool_free(t->pool);
	km_times_free(t->times);
	km_cert_free(t->own);
	free(t->pins);
	free(t->dir);
	free(t);
}
