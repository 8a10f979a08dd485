/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/certs.h"
#include "libkm/base/util.h"
#include <dirent.h>
#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/km-certs-XXXXXX";

static X509 *make_x509(EVP_PKEY *key, const char *name)
{
	X509 *x = X509_new();
	char san[300];
	static long serial;
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_set_version(x, 2);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_set_pubkey(x, key);
	snprintf(san, sizeof(san), "DNS:%s", name);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, san);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	return x;
}

/* A file in the folder; parts: k its key, c its certificate, o a certificate of another key. */
static void put(const char *file, const char *name, const char *parts)
{
	char path[512], temp[512];
	EVP_PKEY *key = EVP_EC_gen("P-256"), *other = EVP_EC_gen("P-256");
	X509 *x = make_x509(key, name), *o = make_x509(other, "ca.test");
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	snprintf(temp, sizeof(temp), "%s/.new", dir);
	FILE *f = fopen(temp, "w");
	assert_non_null(f);
	for (; *parts; parts++) {
		if (*parts == 'k')
			PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
		else
			PEM_write_X509(f, *parts == 'c' ? x : o);
	}
	fclose(f);
	assert_int_equal(rename(temp, path), 0);
	X509_free(x);
	X509_free(o);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	DIR *d = opendir(dir);
	char path[512];
	(void)state;
	for (struct dirent *e; d && (e = readdir(d));) {
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		unlink(path);
	}
	closedir(d);
	return rmdir(dir);
}

static void test_any_order(void **state)
{
	static const char *const orders[] = {"kc", "ck", "cok", "kco", "ock", "koc"};
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
		assert_true(c->not_after_ms > km_wall_ms());
		cert_put(c);
	}
}

static int ask(struct certs *cs, const char *host, bool wildcard, int64_t now, struct cert **c,
	       struct km_errtext *err)
{
	struct certs_ask a = {.host = host,
			      .wildcard = wildcard,
			      .mode = ROUTE_TLS_AUTO,
			      .ecdsa = true,
			      .now_ms = now,
			      .wall_ms = km_wall_ms()};
	return certs_for_host(cs, &a, c, err);
}

static void test_bad_files(void **state)
{
	struct certs *cs = certs_new(&(struct certs_opts){.own_dir = dir});
	struct km_errtext err;
	struct cert *c;
	(void)state;
	assert_int_equal(ask(cs, "no.test", false, 0, &c, &err), KM_ENOTFOUND);
	assert_null(c);
	put("k.test", "k.test", "k");
	assert_int_equal(ask(cs, "k.test", false, 0, &c, &err), KM_EINVAL);
	assert_non_null(strstr(err.text, "no certificate of its private key"));
	put("c.test", "c.test", "c");
	assert_int_equal(ask(cs, "c.test", false, 0, &c, &err), KM_EINVAL);
	assert_non_null(strstr(err.text, "no private key"));
	put("o.test", "o.test", "ok");
	assert_int_equal(ask(cs, "o.test", false, 0, &c, &err), KM_EINVAL);
	certs_free(cs);
}

static const X509 *get(struct certs *cs, const char *domain, int64_t now)
{
	struct cert *c;
	if (ask(cs, domain, false, now, &c, NULL))
		return NULL;
	const X509 *leaf = c->leaf;
	cert_put(c); /* the cache holds it */
	return leaf;
}

static void test_replaced(void **state)
{
	struct certs *cs = certs_new(&(struct certs_opts){.own_dir = dir});
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
	char path[512];
	snprintf(path, sizeof(path), "%s/a.test", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/a.test.pem", dir);
	unlink(path);
	assert_null(get(cs, "a.test", 30000)); /* gone is gone */
	put("a.test", "a.test", "ck");
	assert_non_null(get(cs, "a.test", 40000)); /* and comes back */
	certs_free(cs);
}

static void test_bound(void **state)
{
	struct certs *cs = certs_new(&(struct certs_opts){.own_dir = dir, .max = 2});
	struct cert *held;
	(void)state;
	put("a.test", "a.test", "ck");
	put("b.test", "b.test", "ck");
	put("c.test", "c.test", "ck");
	assert_int_equal(ask(cs, "a.test", false, 0, &held, NULL), 0);
	assert_non_null(get(cs, "b.test", 0));
	assert_ptr_equal(get(cs, "a.test", 0), held->leaf);
	assert_non_null(get(cs, "c.test", 0)); /* b goes: used longest ago */
	assert_ptr_equal(get(cs, "a.test", 0), held->leaf);
	assert_non_null(get(cs, "b.test", 0)); /* c goes */
	assert_non_null(get(cs, "c.test", 0)); /* a goes, but who holds it keeps it */
	assert_true(cert_covers(held, "a.test"));
	cert_put(held);
	certs_free(cs);
}

static void test_for_host(void **state)
{
	struct certs *cs = certs_new(&(struct certs_opts){.own_dir = dir});
	struct km_errtext err;
	struct cert *c;
	(void)state;
	put("*.w.test", "*.w.test", "ck");
	put("own.w.test", "own.w.test", "ck");
	assert_int_equal(ask(cs, "x.w.test", true, 0, &c, &err), 0);
	assert_true(cert_covers(c, "y.w.test"));
	cert_put(c);
	assert_int_equal(ask(cs, "x.w.test", false, 0, &c, &err), 0);
	cert_put(c);
	assert_int_equal(ask(cs, "own.w.test", false, 0, &c, &err), 0);
	assert_false(cert_covers(c, "y.w.test"));
	cert_put(c);
	assert_int_equal(ask(cs, "own.w.test", true, 0, &c, &err), 0);
	assert_true(cert_covers(c, "y.w.test"));
	cert_put(c);
	assert_int_equal(ask(cs, "w.test", false, 0, &c, &err), KM_ENOTFOUND);
	assert_int_equal(ask(cs, "localhost", false, 0, &c, &err), KM_ENOTFOUND);
	certs_free(cs);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {TEST(test_any_order), TEST(test_bad_files),
					   TEST(test_replaced), TEST(test_bound),
					   TEST(test_for_host)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
