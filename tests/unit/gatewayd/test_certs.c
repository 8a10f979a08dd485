/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/certs.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "tests/unit/gatewayd/pki.h"
#include <pthread.h>

static struct km_errtext err;

/* In the operator's folder: that of the test; obtained ones in its "acme". */
static void put(const char *file, const char *name, const char *parts)
{
	char san[300];
	snprintf(san, sizeof(san), "DNS:%s", name);
	pki_put(file, &(struct pki){.san = san}, false, parts);
}

static void put_like(const char *file, const char *issuer, bool rsa, long from, long to)
{
	struct pki p = {.san = "DNS:a.test,DNS:*.w.test", .issuer = issuer, .from = from, .to = to};
	pki_put(file, &p, rsa, "kc");
}

static struct certs *store(size_t max)
{
	char acme[300];
	snprintf(acme, sizeof(acme), "%s/acme", dir);
	mkdir(acme, 0700);
	struct certs *c = certs_new(&(struct certs_opts){dir, acme, max});
	assert_non_null(c);
	return c;
}

static void gone(const char *file)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	assert_int_equal(unlink(path), 0);
}

static int64_t metric(const char *name)
{
	return atomic_load(&km_metric(KM_METRIC_GAUGE, name, "", "")->value);
}
#define KEPT metric("kakuremichi_certificates_cached")
#define LOADS metric("kakuremichi_certificate_loads_total")
#define UNTIMELY metric("kakuremichi_certificate_untimely_total")

static int ask(struct certs *cs, const char *host, bool wildcard, int64_t now, struct cert **c)
{
	struct certs_ask a = {.host = host,
			      .wildcard = wildcard,
			      .mode = ROUTE_TLS_AUTO,
			      .ecdsa = true,
			      .now_ms = now,
			      .wall_ms = km_wall_ms()};
	return certs_for_host(cs, &a, c, &err);
}

/* The leaf, as long as the cache holds it; NULL: none. */
static const X509 *get(struct certs *cs, const char *domain, int64_t now)
{
	struct cert *c;
	if (ask(cs, domain, false, now, &c))
		return NULL;
	const X509 *leaf = c->leaf;
	cert_put(c);
	return leaf;
}

/* The issuer of what a.test is served with, "" for none. */
static const char *by(struct certs *cs, enum route_tls mode, bool ecdsa, int64_t now)
{
	static char issuer[64];
	struct cert *c;
	struct certs_ask a = {
	    .host = "a.test", .mode = mode, .ecdsa = ecdsa, .now_ms = now, .wall_ms = km_wall_ms()};
	if (certs_for_host(cs, &a, &c, &err))
		return "";
	cert_issuer(c, issuer, sizeof(issuer));
	cert_put(c);
	return issuer;
}

/* ---- one file ---- */

static void test_any_order(void **state)
{
	static const char *const orders[] = {"kc", "ck", "cok", "kco", "ock", "koc", "pc"};
	struct cert *c;
	char path[512];
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(orders); i++) {
		put("a.test", "a.test", orders[i]);
		snprintf(path, sizeof(path), "%s/a.test", dir);
		assert_int_equal(cert_load(&c, path, NULL), 0);
		assert_true(cert_covers(c, "a.test"));
		assert_false(cert_covers(c, "b.test"));
		assert_int_equal(sk_X509_num(c->chain), (int)strlen(orders[i]) - 2);
		assert_true(cert_in_time(c, km_wall_ms()));
		assert_false(cert_in_time(c, c->not_after_ms));
		assert_false(cert_in_time(c, c->not_before_ms - 1));
		cert_put(c);
	}
}

static void test_names(void **state)
{
	struct cert *c;
	(void)state;
	char *pem = pki_pem(&(struct pki){.san = "DNS:*.w.test,IP:192.0.2.7", .issuer = "J\x1b[1m"},
			    false, "kc");
	assert_int_equal(cert_parse(&c, pem, strlen(pem), "x", &err), 0);
	assert_true(cert_covers(c, "x.w.test"));
	assert_true(cert_covers(c, "*.w.test"));
	assert_false(cert_covers(c, "x.y.w.test"));
	assert_false(cert_covers(c, "w.test"));
	assert_true(cert_covers(c, "192.0.2.7"));
	assert_false(cert_covers(c, "192.0.2.8"));
	char issuer[8];
	cert_issuer(c, issuer, sizeof(issuer));
	assert_string_equal(issuer, "J?[1m");
	cert_put(c);
	free(pem);
}

static void test_bad_keys(void **state)
{
	static const char crypt[] = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"
				    "-----END ENCRYPTED PRIVATE KEY-----\n";
	struct cert *c;
	char *weak = NULL;
	size_t n;
	(void)state;
	assert_int_equal(cert_parse(&c, crypt, strlen(crypt), "x", &err), KM_EINVAL);
	assert_non_null(strstr(err.text, "encrypted"));
	EVP_PKEY *key = EVP_RSA_gen(1024);
	X509 *x = pki_cert(key, &(struct pki){.san = "DNS:a.test"});
	FILE *f = open_memstream(&weak, &n);
	PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
	PEM_write_X509(f, x);
	fclose(f);
	assert_int_equal(cert_parse(&c, weak, n, "x", &err), KM_EINVAL);
	assert_string_equal(err.text, "x: the private key is too weak (1024 bits)");
	X509_free(x);
	EVP_PKEY_free(key);
	free(weak);
}

/* Cut anywhere it is refused, not taken for a shorter chain; bits that flip break nothing. */
static void test_damage(void **state)
{
	char *pem = pki_pem(&(struct pki){.san = "DNS:a.test"}, false, "kco");
	static const char begin[] = "-----BEGIN CERTIFICATE-----",
			  end[] = "-----END CERTIFICATE-----";
	size_t n = strlen(pem);
	size_t last = (size_t)(strstr(strstr(pem, end), begin) - pem) + sizeof(begin) - 1;
	struct cert *c;
	(void)state;
	for (size_t cut = 0; cut <= n; cut++) {
		char *text = malloc(cut ? cut : 1); /* so that reading on is seen */
		memcpy(text, pem, cut);
		int rc = cert_parse(&c, text, cut, "x", &err);
		if (cut > last && cut < n - 1)
			assert_int_equal(rc, KM_EINVAL);
		else if (cut >= n - 1)
			assert_int_equal(rc, 0);
		assert_true(rc == 0 || rc == KM_EINVAL);
		assert_true((rc == 0) == (c != NULL));
		cert_put(c);
		free(text);
	}
	for (size_t i = 0; i < n; i++) {
		char was = pem[i];
		pem[i] = (char)(was ^ (1 << (i % 8)));
		int rc = cert_parse(&c, pem, n, "x", &err);
		assert_true((rc == 0) == (c != NULL));
		cert_put(c);
		pem[i] = was;
	}
	free(pem);
}

/* One intermediate for all. */
static void test_shared_intermediates(void **state)
{
	EVP_PKEY *key = pki_key(false);
	X509 *inter = pki_cert(key, &(struct pki){.san = "DNS:inter.test"});
	struct cert *a, *b;
	char *all[2];
	(void)state;
	for (int i = 0; i < 2; i++) {
		size_t n;
		char *own = pki_pem(&(struct pki){.san = "DNS:a.test"}, false, "kc");
		FILE *f = open_memstream(&all[i], &n);
		fputs(own, f);
		PEM_write_X509(f, inter);
		fclose(f);
		free(own);
	}
	assert_int_equal(cert_parse(&a, all[0], strlen(all[0]), "x", &err), 0);
	assert_int_equal(cert_parse(&b, all[1], strlen(all[1]), "x", &err), 0);
	assert_ptr_not_equal(a->leaf, b->leaf);
	assert_ptr_equal(sk_X509_value(a->chain, 0), sk_X509_value(b->chain, 0));
	assert_int_equal(X509_cmp(sk_X509_value(a->chain, 0), inter), 0);
	cert_put(a);
	assert_int_equal(X509_cmp(sk_X509_value(b->chain, 0), inter), 0);
	cert_put(b);
	for (int i = 0; i < 2; i++)
		free(all[i]);
	X509_free(inter);
	EVP_PKEY_free(key);
}

/* ---- the operator's folder ---- */

static void test_bad_files(void **state)
{
	struct certs *cs = store(0);
	struct cert *c;
	char path[512];
	(void)state;
	assert_int_equal(ask(cs, "no.test", false, 0, &c), KM_ENOTFOUND);
	assert_null(c);
	put("k.test", "k.test", "k");
	assert_int_equal(ask(cs, "k.test", false, 0, &c), KM_EINVAL);
	assert_non_null(strstr(err.text, "no certificate of its private key"));
	put("c.test", "c.test", "c");
	assert_int_equal(ask(cs, "c.test", false, 0, &c), KM_EINVAL);
	assert_non_null(strstr(err.text, "no private key"));
	put("o.test", "o.test", "ok");
	assert_int_equal(ask(cs, "o.test", false, 0, &c), KM_EINVAL);
	snprintf(path, sizeof(path), "%s/f.test", dir);
	assert_int_equal(mkfifo(path, 0600), 0); /* opening it would block the worker */
	assert_int_equal(ask(cs, "f.test", false, 0, &c), KM_EINVAL);
	put("l", "l.test", "ck"); /* as operators link to certbot's folder */
	snprintf(path, sizeof(path), "%s/l.test", dir);
	assert_int_equal(symlink("l", path), 0);
	assert_int_equal(ask(cs, "l.test", false, 0, &c), 0);
	assert_true(c->own);
	cert_put(c);
	certs_free(cs);
}

static void test_replaced(void **state)
{
	struct certs *cs = store(0);
	(void)state;
	put("a.test.pem", "a.test", "ck");
	const X509 *first = get(cs, "a.test", 1000);
	assert_non_null(first);
	assert_ptr_equal(get(cs, "a.test", 5000), first); /* looked again, unchanged */
	put("a.test.pem", "a.test", "ck");
	assert_ptr_equal(get(cs, "a.test", 5000 + CERTS_RECHECK_MS - 1), first);
	const X509 *second = get(cs, "a.test", 5000 + CERTS_RECHECK_MS);
	assert_ptr_not_equal(second, first);
	put("a.test.pem", "a.test", "c"); /* bad: the last good one stays */
	assert_ptr_equal(get(cs, "a.test", 10000), second);
	put("a.test", "a.test", "ck"); /* the name without ending comes first */
	assert_ptr_not_equal(get(cs, "a.test", 20000), second);
	gone("a.test");
	gone("a.test.pem");
	assert_null(get(cs, "a.test", 30000)); /* gone is gone */
	put("a.test", "a.test", "ck");
	assert_non_null(get(cs, "a.test", 40000)); /* and comes back */
	certs_free(cs);
}

static void test_for_host(void **state)
{
	struct certs *cs = store(0);
	struct cert *c;
	(void)state;
	put("*.w.test", "*.w.test", "ck");
	put("own.w.test", "own.w.test", "ck");
	static const struct {
		const char *host;
		bool wildcard, star; /* star: that of the parent */
	} asked[] = {{"x.w.test", true, true},     {"x.w.test", false, true},
		     {"own.w.test", false, false}, {"own.w.test", true, true},
		     {"*.w.test", false, true},    {"*.w.test", true, true}};
	for (size_t i = 0; i < KM_ARRAY_LEN(asked); i++) {
		assert_int_equal(ask(cs, asked[i].host, asked[i].wildcard, 0, &c), 0);
		assert_int_equal(cert_covers(c, "y.w.test"), asked[i].star);
		cert_put(c);
	}
	assert_int_equal(ask(cs, "w.test", false, 0, &c), KM_ENOTFOUND);
	assert_int_equal(ask(cs, "localhost", false, 0, &c), KM_ENOTFOUND);
	certs_free(cs);
}

/* Names that are no domain do not become paths. */
static void test_no_domain_no_file(void **state)
{
	struct certs *cs = store(0);
	struct cert *c;
	char own[300];
	(void)state;
	put("a.test", "a.test", "ck");
	snprintf(own, sizeof(own), "../%s/a.test", strrchr(dir, '/') + 1);
	assert_int_equal(ask(cs, own, false, 0, &c), KM_ENOTFOUND);
	assert_int_equal(ask(cs, "acme/../a.test", false, 0, &c), KM_ENOTFOUND);
	assert_int_equal(ask(cs, "", false, 0, &c), KM_ENOTFOUND);
	certs_free(cs);
}

/* ---- both folders ---- */

static void test_sources(void **state)
{
	struct certs *cs = store(0);
	(void)state;
	put_like("acme/a.test", "obtained", false, 0, 0);
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 0), "obtained");
	assert_string_equal(by(cs, ROUTE_TLS_OWN, true, 0), "");
	put_like("a.test", "own", false, 0, 0);
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, CERTS_RECHECK_MS), "own");
	assert_string_equal(by(cs, ROUTE_TLS_OWN, true, CERTS_RECHECK_MS), "own");
	certs_free(cs);
}

/* Which of these files a.test is served with; o: of the operator's, a: obtained, r: RSA, x: out of
 * its time. */
static void test_choice(void **state)
{
	static const struct {
		const char *files[3], *ecdsa, *rsa;
	} cases[] = {
	    {{"a"}, "a", "a"},          {{"ar"}, "ar", "ar"},       {{"a", "ar"}, "a", "ar"},
	    {{"o", "or"}, "o", "or"},   {{"o", "ar"}, "o", "ar"},   {{"or", "a"}, "or", "or"},
	    {{"ox", "a"}, "a", "a"},    {{"ox"}, "ox", "ox"},       {{"ox", "ax"}, "ox", "ox"},
	    {{"ax", "ar"}, "ar", "ar"}, {{"a", "arx"}, "a", "arx"}, {{"o", "a", "arx"}, "o", "arx"},
	};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct certs *cs = store(0);
		char file[3][64];
		for (size_t j = 0; j < 3 && cases[i].files[j]; j++) {
			const char *f = cases[i].files[j];
			bool rsa = strchr(f, 'r'), old = strchr(f, 'x');
			snprintf(file[j], sizeof(file[j]), "%sa.test%s", *f == 'a' ? "acme/" : "",
				 rsa ? "+rsa" : "");
			put_like(file[j], f, rsa, old ? -7200 : 0, old ? -3600 : 0);
		}
		assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 0), cases[i].ecdsa);
		assert_string_equal(by(cs, ROUTE_TLS_AUTO, false, 0), cases[i].rsa);
		certs_free(cs);
		for (size_t j = 0; j < 3 && cases[i].files[j]; j++)
			gone(file[j]);
	}
}

/* One whose time has not come is like one whose time is over. */
static void test_untimely(void **state)
{
	struct certs *cs = store(0);
	struct cert *c;
	int64_t before = UNTIMELY;
	(void)state;
	put_like("acme/a.test", "soon", false, 3600, 7200);
	struct certs_ask peek = {.host = "a.test",
				 .mode = ROUTE_TLS_AUTO,
				 .ecdsa = true,
				 .peek = true,
				 .wall_ms = km_wall_ms()};
	assert_int_equal(certs_for_host(cs, &peek, &c, &err), 0);
	cert_put(c);
	assert_int_equal(UNTIMELY, before); /* looked at is not served */
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 0), "soon");
	assert_int_equal(UNTIMELY, before + 1);
	put_like("acme/a.test+rsa", "now", true, 0, 0);
	certs_changed(cs, "a.test");
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 0), "now");
	assert_int_equal(UNTIMELY, before + 1);
	certs_free(cs);
}

static void test_wildcard_obtained(void **state)
{
	struct certs *cs = store(0);
	struct cert *c;
	(void)state;
	put_like("acme/*.w.test", "obtained", false, 0, 0);
	assert_int_equal(ask(cs, "x.w.test", true, 0, &c), 0);
	cert_put(c);
	assert_int_equal(ask(cs, "y.w.test", false, 0, &c), 0); /* until it has its own */
	cert_put(c);
	put("acme/y.w.test", "y.w.test", "kc");
	certs_changed(cs, "y.w.test");
	assert_int_equal(ask(cs, "y.w.test", false, 0, &c), 0);
	assert_false(cert_covers(c, "x.w.test"));
	cert_put(c);
	certs_free(cs);
}

static void test_changed(void **state)
{
	struct certs *cs = store(0);
	(void)state;
	certs_changed(cs, "a.test"); /* nobody has asked: nothing to forget */
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 0), "");
	put_like("acme/a.test", "first", false, 0, 0);
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 1), ""); /* no look at the disk yet */
	certs_changed(cs, "a.test");
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 1), "first");
	put_like("acme/a.test", "second", false, 0, 0);
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 1), "first");
	certs_changed(cs, "a.test");
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 1), "second");
	gone("acme/a.test");
	certs_changed(cs, "a.test");
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 1), "");
	certs_free(cs);
}

/* What took the place of a good one is set aside, and the good one goes on being served. */
static void test_obtained_goes_bad(void **state)
{
	struct certs *cs = store(0);
	char path[512];
	(void)state;
	put_like("acme/a.test", "good", false, 0, 0);
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 0), "good");
	pki_write("acme/a.test", "nonsense");
	for (int64_t now = CERTS_RECHECK_MS; now < 5 * CERTS_RECHECK_MS; now += CERTS_RECHECK_MS)
		assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, now), "good");
	snprintf(path, sizeof(path), "%s/acme/a.test.broken", dir);
	assert_int_equal(access(path, F_OK), 0);
	put_like("acme/a.test", "better", false, 0, 0);
	certs_changed(cs, "a.test");
	assert_string_equal(by(cs, ROUTE_TLS_AUTO, true, 90000), "better");
	certs_free(cs);
}

/* ---- bounds ---- */

static void test_bound(void **state)
{
	struct certs *cs = store(2);
	struct cert *held;
	(void)state;
	put("a.test", "a.test", "ck");
	put("b.test", "b.test", "ck");
	put("c.test", "c.test", "ck");
	assert_int_equal(ask(cs, "a.test", false, 0, &held), 0);
	assert_non_null(get(cs, "b.test", 0));
	assert_ptr_equal(get(cs, "a.test", 0), held->leaf);
	assert_non_null(get(cs, "c.test", 0)); /* b goes: used longest ago */
	assert_int_equal(KEPT, 2);
	assert_ptr_equal(get(cs, "a.test", 0), held->leaf);
	assert_non_null(get(cs, "b.test", 0)); /* c goes */
	assert_non_null(get(cs, "c.test", 0)); /* a goes, but who holds it keeps it */
	assert_true(cert_covers(held, "a.test"));
	cert_put(held);
	certs_free(cs);
	assert_int_equal(KEPT, 0);
}

/* A report looks at every domain and puts none out that is in use. */
static void test_peek(void **state)
{
	struct certs *cs = store(2);
	struct cert *c;
	static const char *const all[] = {"a.test", "b.test", "c.test", "d.test"};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(all); i++)
		put(all[i], all[i], "ck");
	assert_non_null(get(cs, "a.test", 0));
	assert_non_null(get(cs, "b.test", 0));
	for (size_t i = 0; i < KM_ARRAY_LEN(all); i++) {
		struct certs_ask p = {.host = all[i], .ecdsa = true, .peek = true};
		assert_int_equal(certs_for_host(cs, &p, &c, &err), 0);
		cert_put(c);
		assert_true(KEPT <= 2);
	}
	/* At most the one that was used longest ago had to go. */
	int64_t before = LOADS;
	assert_non_null(get(cs, "b.test", 0));
	assert_int_equal(LOADS, before);
	certs_free(cs);
}

/* Many names in few places, with and without certificates: the bound holds, hits read nothing. */
static void test_many(void **state)
{
	enum { MAX = 256, NAMES = 1200 };
	struct certs *cs = store(MAX);
	struct cert *c;
	char *pem = pki_pem(&(struct pki){.san = "DNS:*.w.test"}, false, "kc");
	(void)state;
	for (int i = 0; i < NAMES; i += 2) {
		char file[64];
		snprintf(file, sizeof(file), "n%d.w.test", i);
		pki_write(file, pem);
	}
	free(pem);
	for (int i = 0; i < NAMES; i++) {
		char host[64];
		snprintf(host, sizeof(host), "n%d.w.test", i);
		assert_int_equal(ask(cs, host, false, 0, &c), i % 2 ? KM_ENOTFOUND : 0);
		cert_put(c);
		assert_true(KEPT <= MAX);
	}
	int64_t before = LOADS;
	for (int round = 0; round < 3; round++)
		for (int i = NAMES - 40; i < NAMES; i += 2) {
			char host[64];
			snprintf(host, sizeof(host), "n%d.w.test", i);
			assert_int_equal(ask(cs, host, false, round, &c), 0);
			cert_put(c);
		}
	assert_int_equal(LOADS, before);
	certs_free(cs);
}

/* ---- threads ---- */

enum { THREADS = 4, ROUNDS = 150 };
struct crowd {
	struct certs *cs;
	pthread_barrier_t go, done;
	_Atomic int round, wrong;
};

static void *asks(void *arg)
{
	struct crowd *k = arg;
	for (int i = 0; i < ROUNDS; i++) {
		pthread_barrier_wait(&k->go);
		struct cert *c;
		char issuer[32], want[32];
		struct km_errtext mine;
		struct certs_ask a = {.host = "a.test",
				      .mode = ROUTE_TLS_AUTO,
				      .ecdsa = true,
				      .wall_ms = km_wall_ms()};
		snprintf(want, sizeof(want), "round %d", i);
		if (certs_for_host(k->cs, &a, &c, &mine)) {
			atomic_fetch_add(&k->wrong, 1);
		} else {
			cert_issuer(c, issuer, sizeof(issuer));
			if (strcmp(issuer, want) != 0)
				atomic_fetch_add(&k->wrong, 1);
			cert_put(c);
		}
		pthread_barrier_wait(&k->done);
	}
	return NULL;
}

/* After certs_changed every thread gets the new one, also while another is reading it: a handshake
 * that waited for it must not be told that there is none. */
static void test_changed_for_all(void **state)
{
	struct crowd k = {.cs = store(0)};
	pthread_t t[THREADS];
	(void)state;
	pthread_barrier_init(&k.go, NULL, THREADS + 1);
	pthread_barrier_init(&k.done, NULL, THREADS + 1);
	assert_string_equal(by(k.cs, ROUTE_TLS_AUTO, true, 0), "");
	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, asks, &k);
	for (int i = 0; i < ROUNDS; i++) {
		char issuer[32];
		snprintf(issuer, sizeof(issuer), "round %d", i);
		put_like("acme/a.test", issuer, false, 0, 0);
		certs_changed(k.cs, "a.test");
		pthread_barrier_wait(&k.go);
		pthread_barrier_wait(&k.done);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(k.wrong, 0);
	pthread_barrier_destroy(&k.go);
	pthread_barrier_destroy(&k.done);
	certs_free(k.cs);
}

static void *roams(void *arg)
{
	struct crowd *k = arg;
	for (int i = 0; i < 4000; i++) {
		struct cert *c;
		struct km_errtext mine;
		char host[32];
		snprintf(host, sizeof(host), "r%u.w.test", km_random_below(24));
		struct certs_ask a = {.host = host,
				      .mode = ROUTE_TLS_AUTO,
				      .ecdsa = i % 3 != 0,
				      .now_ms = (int64_t)i * 100,
				      .wall_ms = km_wall_ms()};
		if (certs_for_host(k->cs, &a, &c, &mine))
			atomic_fetch_add(&k->wrong, 1);
		else
			cert_put(c);
		if (i % 50 == 0)
			certs_changed(k->cs, host);
	}
	return NULL;
}

/* A cache that is too small for what is asked, changed all the time: for the sanitizers. */
static void test_roaming(void **state)
{
	struct crowd k = {.cs = store(16)};
	pthread_t t[THREADS];
	char *pem = pki_pem(&(struct pki){.san = "DNS:*.w.test"}, false, "kc");
	(void)state;
	for (int i = 0; i < 24; i++) {
		char file[32];
		snprintf(file, sizeof(file), "acme/r%d.w.test", i);
		pki_write(file, pem);
	}
	free(pem);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, roams, &k);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(k.wrong, 0);
	assert_true(KEPT <= 16);
	certs_free(k.cs);
	assert_int_equal(KEPT, 0);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, folder_make, folder_remove)
	const struct CMUnitTest tests[] = {
	    TEST(test_any_order),
	    TEST(test_names),
	    TEST(test_bad_keys),
	    TEST(test_damage),
	    TEST(test_shared_intermediates),
	    TEST(test_bad_files),
	    TEST(test_replaced),
	    TEST(test_for_host),
	    TEST(test_no_domain_no_file),
	    TEST(test_sources),
	    TEST(test_choice),
	    TEST(test_untimely),
	    TEST(test_wildcard_obtained),
	    TEST(test_changed),
	    TEST(test_obtained_goes_bad),
	    TEST(test_bound),
	    TEST(test_peek),
	    TEST(test_many),
	    TEST(test_changed_for_all),
	    TEST(test_roaming),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
