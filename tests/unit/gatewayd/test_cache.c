/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/cache.h"
#include "libkm/base/util.h"
#include "tests/unit/gatewayd/pki.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

static struct km_errtext err;

static const char *in(const char *file)
{
	static char path[512];
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	return path;
}

static bool there(const char *file)
{
	struct stat st;
	return lstat(in(file), &st) == 0;
}

static unsigned entries(void)
{
	DIR *d = opendir(dir);
	unsigned n = 0;
	for (struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	return n;
}

static char *slurp(const char *file)
{
	char *text;
	size_t n;
	assert_int_equal(km_file_read(in(file), 1 << 20, &text, &n), 0);
	return text;
}

static void sh(const char *script)
{
	char cmd[2048];
	snprintf(cmd, sizeof(cmd), "cd %s && { %s; } >/dev/null 2>&1", dir, script);
	/* NOLINTNEXTLINE(cert-env33-c): the test's own words */
	assert_int_equal(system(cmd), 0);
}

/* ---- the form ---- */

/* As autocert writes it, but by the openssl program: SEC1 or PKCS#1 first, then leaf and issuer. */
static void test_reads_autocerts(void **state)
{
	char *pem;
	struct cache_facts facts;
	(void)state;
	sh("openssl ecparam -name prime256v1 -genkey -noout -out k && openssl req -x509 -new -key "
	   "k -days 9"
	   " -subj '/CN=Some CA' -addext subjectAltName=DNS:a.test -out c && cat k c c > a.test &&"
	   " openssl genrsa -traditional -out r 2048 && openssl req -x509 -new -key r -days 9"
	   " -subj '/O=Only organisation' -addext subjectAltName=DNS:a.test -out c && cat r c > "
	   "a.test+rsa");
	assert_int_equal(cache_get(dir, "a.test", false, &pem, &facts, &err), 0);
	assert_memory_equal(pem, "-----BEGIN EC PRIVATE KEY-----", 30);
	assert_string_equal(facts.issuer, "Some CA");
	assert_false(facts.rsa);
	assert_int_equal(strlen(facts.fingerprint), 64);
	assert_int_equal((facts.not_after_ms - facts.not_before_ms) / 86400000, 9);
	free(pem);
	assert_int_equal(cache_get(dir, "a.test", true, &pem, &facts, &err), 0);
	assert_memory_equal(pem, "-----BEGIN RSA PRIVATE KEY-----", 31);
	assert_string_equal(facts.issuer, "Only organisation");
	assert_true(facts.rsa);
	free(pem);
}

/* And the openssl program, which knows the forms, reads ours. */
static void test_writes_autocerts(void **state)
{
	struct cache_facts facts;
	struct stat st;
	(void)state;
	for (int rsa = 0; rsa < 2; rsa++) {
		char script[256];
		const char *file = rsa ? "*.w.test+rsa" : "*.w.test";
		EVP_PKEY *key = pki_key(rsa);
		X509 *x = pki_cert(key, &(struct pki){.san = "DNS:*.w.test"});
		BIO *bio = BIO_new(BIO_s_mem());
		char *chain;
		PEM_write_bio_X509(bio, x);
		BIO_write(bio, "", 1);
		BIO_get_mem_data(bio, &chain);
		char *pem = cache_pem(key, chain);
		assert_int_equal(cache_put(dir, "*.w.test", rsa, pem, &facts, &err), 0);
		assert_int_equal(stat(in(file), &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
		char *text = slurp(file);
		assert_string_equal(text, pem);
		assert_memory_equal(text, rsa ? "-----BEGIN RSA PRI" : "-----BEGIN EC PRIV", 18);
		snprintf(script, sizeof(script),
			 "openssl %s -in '%s' -noout -check && openssl x509 -in '%s'",
			 rsa ? "rsa" : "ec", file, file);
		sh(script);
		free(text);
		free(pem);
		BIO_free(bio);
		X509_free(x);
		EVP_PKEY_free(key);
	}
	assert_int_equal(entries(), 2);
}

static void test_pkcs8_is_read(void **state)
{
	char *pem;
	(void)state;
	pki_put("a.test", &(struct pki){.san = "DNS:a.test"}, false, "pc");
	assert_int_equal(cache_get(dir, "a.test", false, &pem, NULL, &err), 0);
	assert_memory_equal(pem, "-----BEGIN PRIVATE KEY-----", 27);
	free(pem);
}

/* ---- what is no entry ---- */

static void test_bad_is_set_aside_once(void **state)
{
	static const struct {
		const char *san, *parts, *raw, *why;
		bool rsa_file, rsa_key;
	} bad[] = {
	    {.raw = "", .why = "no private key"},
	    {.raw = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
	     .why = "no private key"},
	    {.raw = "\x7f"
		    "ELF\n",
	     .why = "no private key"},
	    {.san = "DNS:a.test", .parts = "k", .why = "no certificate of its private key"},
	    {.san = "DNS:a.test", .parts = "ko", .why = "no certificate of its private key"},
	    {.san = "DNS:a.test", .parts = "c", .why = "no private key"},
	    {.san = "DNS:b.test", .parts = "kc", .why = "does not name a.test"},
	    {.san = "DNS:a.test", .parts = "kc", .rsa_key = true, .why = "the key is RSA"},
	    {.san = "DNS:a.test", .parts = "kc", .rsa_file = true, .why = "the key is not RSA"},
	};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		const char *file = bad[i].rsa_file ? "a.test+rsa" : "a.test";
		const char *broken = bad[i].rsa_file ? "a.test+rsa.broken" : "a.test.broken";
		char *pem = NULL;
		if (bad[i].raw)
			pki_write(file, bad[i].raw);
		else
			pki_put(file, &(struct pki){.san = bad[i].san}, bad[i].rsa_key,
				bad[i].parts);
		char *was = slurp(file);
		err.text[0] = '\0';
		assert_int_equal(cache_get(dir, "a.test", bad[i].rsa_file, &pem, NULL, &err),
				 KM_EINVAL);
		assert_null(pem);
		assert_non_null(strstr(err.text, bad[i].why));
		assert_non_null(strstr(err.text, broken));
		assert_false(there(file));
		char *is = slurp(broken);
		assert_string_equal(is, was);
		assert_int_equal(cache_get(dir, "a.test", bad[i].rsa_file, &pem, NULL, &err),
				 KM_ENOTFOUND);
		free(was);
		free(is);
	}
	assert_int_equal(entries(), 2); /* each bad one replaced the one before */
}

static void test_too_large(void **state)
{
	char *pem;
	(void)state;
	FILE *f = fopen(in("a.test"), "w");
	for (int i = 0; i <= CERT_FILE_MAX; i++)
		fputc('x', f);
	fclose(f);
	assert_int_equal(cache_get(dir, "a.test", false, &pem, NULL, &err), KM_EINVAL);
	assert_true(there("a.test.broken"));
}

static void test_only_plain_files(void **state)
{
	struct cert *c;
	(void)state;
	pki_put("real", &(struct pki){.san = "DNS:l.test"}, false, "kc");
	assert_int_equal(symlink("real", in("l.test")), 0);
	assert_int_equal(cache_load(dir, "l.test", false, &c, &err), KM_EINVAL);
	assert_non_null(strstr(err.text, "symbolic link"));
	assert_int_equal(mkdir(in("d.test"), 0700), 0);
	assert_int_equal(cache_load(dir, "d.test", false, &c, &err), KM_EINVAL);
	assert_int_equal(mkfifo(in("f.test"), 0600), 0); /* opening it would wait for ever */
	assert_int_equal(cache_load(dir, "f.test", false, &c, &err), KM_EINVAL);
	assert_int_equal(entries(), 4); /* they stay */
	/* A write replaces the link, and leaves alone what it pointed to. */
	char *was = slurp("real"), *pem = pki_pem(&(struct pki){.san = "DNS:l.test"}, false, "kc");
	struct stat st;
	assert_int_equal(cache_put(dir, "l.test", false, pem, NULL, &err), 0);
	assert_int_equal(lstat(in("l.test"), &st), 0);
	assert_true(S_ISREG(st.st_mode));
	char *is = slurp("real");
	assert_string_equal(is, was);
	free(is);
	free(was);
	free(pem);
}

static void test_foreign_names(void **state)
{
	static const char *const names[] = {"",
					    "..",
					    ".",
					    "../a.test",
					    "a/b.test",
					    "A.test",
					    "a..test",
					    "a.test\n",
					    "*",
					    "*.",
					    "a.*.test",
					    "a.test.",
					    "account.json",
					    "a.test.broken",
					    "a+rsa",
					    "acme_account+key"};
	char *pem = pki_pem(&(struct pki){.san = "DNS:a.test"}, false, "kc"), *got;
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(names); i++) {
		assert_int_equal(cache_get(dir, names[i], false, &got, NULL, &err), KM_EINVAL);
		assert_int_equal(cache_put(dir, names[i], false, pem, NULL, &err), KM_EINVAL);
		assert_int_equal(cache_remove(dir, names[i], false, &err), KM_EINVAL);
	}
	assert_int_equal(entries(), 0);
	free(pem);
}

static void test_out_of_its_time_is_an_entry(void **state)
{
	struct cert *c;
	(void)state;
	pki_put("a.test", &(struct pki){.san = "DNS:a.test", .from = -7200, .to = -3600}, false,
		"kc");
	assert_int_equal(cache_load(dir, "a.test", false, &c, &err), 0);
	assert_false(cert_in_time(c, km_wall_ms()));
	cert_put(c);
}

/* ---- writing ---- */

static void test_put_checks(void **state)
{
	static const struct {
		const char *san, *parts;
		bool rsa_key, rsa_file;
	} bad[] = {{"DNS:a.test", "k", false, false},
		   {"DNS:a.test", "ko", false, false},
		   {"DNS:b.test", "kc", false, false},
		   {"DNS:a.test", "kc", true, false},
		   {"DNS:a.test", "kc", false, true}};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		char *pem = pki_pem(&(struct pki){.san = bad[i].san}, bad[i].rsa_key, bad[i].parts);
		assert_int_equal(cache_put(dir, "a.test", bad[i].rsa_file, pem, NULL, &err),
				 KM_EINVAL);
		free(pem);
	}
	assert_int_equal(entries(), 0);
}

/* A file may not grow: as on a full disk, the older entry stays, and nothing else. */
static void test_full_disk(void **state)
{
	struct rlimit old, small;
	(void)state;
	char *first = pki_pem(&(struct pki){.san = "DNS:a.test"}, false, "kc");
	char *second = pki_pem(&(struct pki){.san = "DNS:a.test,DNS:b.test"}, false, "kc");
	assert_int_equal(cache_put(dir, "a.test", false, first, NULL, &err), 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){.rlim_cur = 100, .rlim_max = old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &small);
	int rc = cache_put(dir, "a.test", false, second, NULL, &err), e = errno;
	int fresh = cache_put(dir, "b.test", false, second, NULL, NULL);
	EVP_PKEY *key;
	int account = cache_account_key(dir, &key, NULL);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(rc, KM_EIO);
	assert_int_equal(e, EFBIG);
	assert_non_null(strstr(err.text, "a.test cannot be written: File too large"));
	assert_int_equal(fresh, KM_EIO);
	assert_int_equal(account, KM_EIO);
	assert_null(key);
	assert_int_equal(entries(), 1);
	char *is = slurp("a.test");
	assert_string_equal(is, first);
	free(is);
	free(first);
	free(second);
}

static void test_remove(void **state)
{
	(void)state;
	pki_put("a.test", &(struct pki){.san = "DNS:a.test"}, false, "kc");
	assert_int_equal(cache_remove(dir, "a.test", true, &err), 0);
	assert_true(there("a.test"));
	assert_int_equal(cache_remove(dir, "a.test", false, &err), 0);
	assert_int_equal(cache_remove(dir, "a.test", false, &err), 0);
	assert_int_equal(entries(), 0);
}

/* ---- the folder ---- */

static void test_open(void **state)
{
	char path[600];
	struct stat st;
	(void)state;
	snprintf(path, sizeof(path), "%s/x/acme", dir);
	assert_int_equal(cache_open(path, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(cache_open(path, &err), 0);
	assert_int_equal(chmod(path, 0750), 0);
	assert_int_equal(cache_open(path, &err), KM_EPERM);
	assert_non_null(strstr(err.text, "chmod 700"));
	assert_int_equal(symlink("x/acme", in("link")), 0);
	assert_int_equal(cache_open(in("link"), &err), KM_EPERM);
	pki_write("file", "");
	assert_int_equal(cache_open(in("file"), &err), KM_EIO);
}

static void seen(void *arg, const char *domain, bool rsa)
{
	char *all = arg;
	sprintf(all + strlen(all), "%s%s ", domain, rsa ? "|rsa" : "");
}

static void test_each(void **state)
{
	static const char *const files[] = {"a.test+rsa",       "a.test.broken", "a.test~Ab3dEf",
					    "acme_account+key", "account.json",  "x+token",
					    "B.test",           ".hidden.test",  "lock"};
	char all[512] = "";
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(files); i++)
		pki_write(files[i], "");
	assert_int_equal(cache_each(dir, seen, all, &err), 0);
	assert_string_equal(all, "a.test|rsa ");
	pki_write("*.w.test", "");
	assert_int_equal(unlink(in("a.test+rsa")), 0);
	all[0] = '\0';
	assert_int_equal(cache_each(dir, seen, all, &err), 0);
	assert_string_equal(all, "*.w.test ");
	assert_int_equal(cache_each(in("none"), seen, all, &err), KM_EIO);
}

/* ---- the account ---- */

static void test_account_key(void **state)
{
	EVP_PKEY *key, *again;
	struct stat st;
	(void)state;
	assert_int_equal(cache_account_key(dir, &key, &err), 0);
	assert_int_equal(stat(in("acme_account+key"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	char *text = slurp("acme_account+key");
	assert_memory_equal(text, "-----BEGIN EC PRIVATE KEY-----", 30);
	free(text);
	assert_int_equal(cache_account_key(dir, &again, &err), 0);
	assert_int_equal(EVP_PKEY_eq(key, again), 1);
	EVP_PKEY_free(again);
	/* An older autocert's name. */
	assert_int_equal(unlink(in("acme_account+key")), 0);
	sh("openssl genrsa -traditional -out acme_account.key 2048");
	assert_int_equal(cache_account_key(dir, &again, &err), 0);
	assert_int_equal(EVP_PKEY_is_a(again, "RSA"), 1);
	assert_false(there("acme_account+key"));
	EVP_PKEY_free(again);
	/* A rollover's new key comes first from then on. */
	assert_int_equal(cache_account_key_put(dir, key, &err), 0);
	assert_int_equal(cache_account_key(dir, &again, &err), 0);
	assert_int_equal(EVP_PKEY_eq(key, again), 1);
	EVP_PKEY_free(again);
	EVP_PKEY_free(key);
}

static void test_broken_account_key(void **state)
{
	EVP_PKEY *key;
	(void)state;
	pki_write("acme_account+key", "nothing");
	assert_int_equal(cache_account_key(dir, &key, &err), 0);
	assert_true(there("acme_account+key.broken"));
	assert_true(there("acme_account+key"));
	EVP_PKEY_free(key);
	/* A key that may be good, but cannot be read, is not replaced by a new one. */
	sh("mv acme_account+key away && ln -s away acme_account+key");
	assert_int_equal(cache_account_key(dir, &key, &err), KM_EINVAL);
	assert_null(key);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, folder_make, folder_remove)
	const struct CMUnitTest tests[] = {
	    TEST(test_reads_autocerts),
	    TEST(test_writes_autocerts),
	    TEST(test_pkcs8_is_read),
	    TEST(test_bad_is_set_aside_once),
	    TEST(test_too_large),
	    TEST(test_only_plain_files),
	    TEST(test_foreign_names),
	    TEST(test_out_of_its_time_is_an_entry),
	    TEST(test_put_checks),
	    TEST(test_full_disk),
	    TEST(test_remove),
	    TEST(test_open),
	    TEST(test_each),
	    TEST(test_account_key),
	    TEST(test_broken_account_key),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
