/* SPDX-License-Identifier: MIT */
/* The store of certificates with as many on disk as one is told: what a start costs, how long a
 * cold name waits, what the memory grows to, what a hit costs with workers side by side. Beside it,
 * in the same run, what OpenSSL alone would have each name cost: an SSL_CTX of its own. usage:
 * bench-certs FILE.json [CERTIFICATES] */
#include "gatewayd/edge/certs.h"
#include "gatewayd/acme/cache.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <err.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <malloc.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KEYS 8
#define KEPT 4096 /* certificate_cache */
#define COLD 10000

static json_t *rows;
static char temp[] = "/tmp/km-bench-certs-XXXXXX";
static const char *dir = temp;

static void row(const char *system, const char *metric, double value, const char *unit)
{
	printf("%-12s %-38s %12.3f %s\n", system, metric, value, unit);
	json_array_append_new(rows,
			      json_pack("{s:s, s:s, s:s, s:f, s:s}", "bench", "certs", "system",
					system, "metric", metric, "value", value, "unit", unit));
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Of this thread: what others on the machine do to the wall clock is not in it. */
static double cpu(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double rss_mib(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	if (!f || fscanf(f, "%*s %ld", &pages) != 1)
		errx(1, "no /proc/self/statm");
	fclose(f);
	return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static void name_of(char out[static 64], unsigned i)
{
	snprintf(out, 64, "n%06u.customer.example", i);
}

/* ---- the folder ---- */

static X509 *cert_make(EVP_PKEY *key, const char *name, const char *issuer, EVP_PKEY *ca,
		       long serial)
{
	X509 *x = X509_new();
	char san[80];
	ASN1_INTEGER_set(X509_get_serialNumber(x), serial);
	X509_set_version(x, 2);
	X509_gmtime_adj(X509_getm_notBefore(x), -3600);
	X509_gmtime_adj(X509_getm_notAfter(x), 45L * 86400);
	X509_NAME_add_entry_by_txt(X509_get_issuer_name(x), "CN", MBSTRING_ASC,
				   (const uint8_t *)issuer, -1, -1, 0);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
				   (const uint8_t *)name, -1, -1, 0);
	X509_set_pubkey(x, key);
	snprintf(san, sizeof(san), "DNS:%s", name);
	static const int nids[] = {NID_subject_alt_name, NID_ext_key_usage, NID_key_usage};
	const char *values[] = {san, "serverAuth", "critical,digitalSignature"};
	for (int i = 0; i < 3; i++) {
		X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nids[i], values[i]);
		X509_add_ext(x, e, -1);
		X509_EXTENSION_free(e);
	}
	if (X509_sign(x, ca, EVP_sha256()) <= 0)
		errx(1, "X509_sign");
	return x;
}

/* Leaf and intermediate, as a CA gives them; a handful of keys, since those are not what is
 * measured. */
static void folder_fill(unsigned n)
{
	EVP_PKEY *key[KEYS], *ca = EVP_EC_gen("P-256");
	char *key_pem[KEYS];
	X509 *inter = cert_make(ca, "Bench CA 1", "Bench Root", ca, 1);
	for (int i = 0; i < KEYS; i++) {
		key[i] = EVP_EC_gen("P-256");
		key_pem[i] = cache_pem(key[i], "");
	}
	for (unsigned i = 0; i < n; i++) {
		char name[64], path[128];
		name_of(name, i);
		snprintf(path, sizeof(path), "%s/%s", dir, name);
		FILE *f = fopen(path, "w");
		if (!f)
			err(1, "%s", path);
		X509 *x = cert_make(key[i % KEYS], name, "Bench CA 1", ca, (long)i + 2);
		fputs(key_pem[i % KEYS], f);
		PEM_write_X509(f, x);
		PEM_write_X509(f, inter);
		fchmod(fileno(f), 0600);
		if (fclose(f))
			err(1, "%s", path);
		X509_free(x);
	}
	X509_free(inter);
	EVP_PKEY_free(ca);
	for (int i = 0; i < KEYS; i++) {
		EVP_PKEY_free(key[i]);
		free(key_pem[i]);
	}
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

static void folder_remove(void)
{
	nftw(temp, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- measuring ---- */

static void counts(void *arg, const char *domain, bool rsa)
{
	(void)domain, (void)rsa;
	++*(unsigned *)arg;
}

static int ask(struct certs *c, const char *host, int64_t now_ms)
{
	struct cert *cert;
	struct certs_ask a = {.host = host,
			      .mode = ROUTE_TLS_AUTO,
			      .ecdsa = true,
			      .now_ms = now_ms,
			      .wall_ms = km_wall_ms()};
	int rc = certs_for_host(c, &a, &cert, NULL);
	cert_put(cert);
	return rc;
}

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}

static void percentiles(const char *system, const char *what, double *ms, unsigned n)
{
	static const struct {
		const char *name;
		double at;
	} all[] = {{"p50", .5}, {"p99", .99}, {"p999", .999}, {"max", 1}};
	qsort(ms, n, sizeof(*ms), by_value);
	for (size_t i = 0; i < KM_ARRAY_LEN(all); i++) {
		char metric[64];
		snprintf(metric, sizeof(metric), "%s_%s", what, all[i].name);
		row(system, metric, ms[(unsigned)((n - 1) * all[i].at)], "ms");
	}
}

/* Puts a file out of the kernel's cache, so that the disk has to be asked. */
static void file_forget(unsigned i)
{
	char name[64], path[128];
	name_of(name, i);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = open(path, O_RDONLY);
	if (fd < 0 || fdatasync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		err(1, "%s", path);
	close(fd);
}

static void cold(unsigned n, bool disk, double *ms, double *cpu_ms)
{
	struct certs *c = certs_new(&(struct certs_opts){"/nonexistent", dir, KEPT});
	unsigned todo = n < COLD ? n : COLD;
	unsigned step = n / todo;
	for (unsigned i = 0; disk && i < todo; i++)
		file_forget(i * step);
	for (unsigned i = 0; i < todo; i++) {
		char name[64];
		name_of(name, i * step);
		double from = now(), cpu_from = cpu();
		if (ask(c, name, 0))
			errx(1, "%s: not found", name);
		cpu_ms[i] = (cpu() - cpu_from) * 1e3;
		ms[i] = (now() - from) * 1e3;
	}
	percentiles("kakuremichi", disk ? "cold_name_cold_disk" : "cold_name", ms, todo);
	percentiles("kakuremichi", disk ? "cold_name_cold_disk_cpu" : "cold_name_cpu", cpu_ms,
		    todo);
	certs_free(c);
}

static void memory(unsigned n)
{
	malloc_trim(0);
	double before = rss_mib(), at_most = 0;
	struct certs *c = certs_new(&(struct certs_opts){"/nonexistent", dir, KEPT});
	struct km_metric *kept =
	    km_metric(KM_METRIC_GAUGE, "kakuremichi_certificates_cached", "", "");
	double from = now(), full = 0;
	for (unsigned i = 0; i < n; i++) {
		char name[64];
		name_of(name, (unsigned)((uint64_t)i * 7919 % n));
		if (ask(c, name, 0))
			errx(1, "%s: not found", name);
		if (atomic_load(&kept->value) > KEPT)
			errx(1, "%lld certificates are kept", (long long)atomic_load(&kept->value));
		if (i % 1000 == 999) {
			double grown = rss_mib() - before;
			at_most = grown > at_most ? grown : at_most;
			if (i + 1 == 2 * KEPT / 1000 * 1000)
				full = grown;
		}
	}
	row("kakuremichi", "every_name_once", now() - from, "s");
	row("kakuremichi", "certificates_kept", (double)atomic_load(&kept->value), "");
	row("kakuremichi", "memory_after_8000_names", full, "MiB");
	row("kakuremichi", "memory_at_most", at_most, "MiB");
	row("kakuremichi", "memory_per_certificate",
	    at_most * 1024 / (double)atomic_load(&kept->value), "KiB");
	certs_free(c);
}

struct worker {
	struct certs *c;
	pthread_t thread;
	unsigned names, from;
	double rate;
};

static void *hits(void *arg)
{
	struct worker *w = arg;
	char name[1000][64];
	for (unsigned i = 0; i < w->names; i++)
		name_of(name[i], i);
	double from = now();
	unsigned long done = 0;
	while (now() - from < 1)
		for (int i = 0; i < 1000; i++, done++)
			if (ask(w->c, name[(w->from + done * 7) % w->names], 1))
				abort();
	w->rate = (double)done / (now() - from);
	return NULL;
}

static double side_by_side(struct certs *c, unsigned threads, unsigned names)
{
	struct worker w[8];
	double sum = 0;
	for (unsigned i = 0; i < threads; i++) {
		w[i] = (struct worker){.c = c, .names = names, .from = i * 131};
		pthread_create(&w[i].thread, NULL, hits, &w[i]);
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(w[i].thread, NULL);
		sum += w[i].rate;
	}
	return sum;
}

static void warm(unsigned n)
{
	struct certs *c = certs_new(&(struct certs_opts){"/nonexistent", dir, KEPT});
	unsigned names = n < 1000 ? n : 1000;
	for (unsigned i = 0; i < names; i++) {
		char name[64];
		name_of(name, i);
		(void)!ask(c, name, 1);
	}
	for (unsigned threads = 1; threads <= 4; threads *= 2) {
		char metric[64];
		snprintf(metric, sizeof(metric), "hits_%u_threads_1000_names", threads);
		row("kakuremichi", metric, side_by_side(c, threads, names) / 1e6, "M/s");
		snprintf(metric, sizeof(metric), "hits_%u_threads_1_name", threads);
		row("kakuremichi", metric, side_by_side(c, threads, 1) / 1e6, "M/s");
	}
	double from = now();
	for (unsigned i = 0; i < 10000; i++) {
		char name[64];
		snprintf(name, sizeof(name), "none%u.customer.example", i);
		(void)!ask(c, name, 1);
	}
	row("kakuremichi", "name_without_certificate", (now() - from) / 10000 * 1e6, "us");
	from = now();
	for (unsigned i = 0; i < 100000; i++)
		(void)!ask(c, "none9999.customer.example", 1);
	row("kakuremichi", "name_without_certificate_again", (now() - from) / 100000 * 1e6, "us");
	certs_free(c);
}

/* What it would be without a store: an SSL_CTX for every name, as OpenSSL's examples have it. */
static void peer(unsigned n, double *ms, double *cpu_ms)
{
	enum { MANY = 2000 };
	static SSL_CTX *ctx[MANY];
	unsigned todo = n < MANY ? n : MANY;
	malloc_trim(0);
	double before = rss_mib();
	for (unsigned i = 0; i < todo; i++) {
		char name[64], path[128];
		name_of(name, i * (n / todo));
		snprintf(path, sizeof(path), "%s/%s", dir, name);
		double from = now(), cpu_from = cpu();
		ctx[i] = SSL_CTX_new(TLS_server_method());
		if (!ctx[i] || SSL_CTX_use_certificate_chain_file(ctx[i], path) != 1 ||
		    SSL_CTX_use_PrivateKey_file(ctx[i], path, SSL_FILETYPE_PEM) != 1)
			errx(1, "%s: SSL_CTX", path);
		cpu_ms[i] = (cpu() - cpu_from) * 1e3;
		ms[i] = (now() - from) * 1e3;
	}
	row("SSL_CTX each", "memory_per_certificate", (rss_mib() - before) * 1024 / todo, "KiB");
	percentiles("SSL_CTX each", "cold_name", ms, todo);
	percentiles("SSL_CTX each", "cold_name_cpu", cpu_ms, todo);
	for (unsigned i = 0; i < todo; i++)
		SSL_CTX_free(ctx[i]);
}

int main(int argc, char **argv)
{
	unsigned n = argc > 2 ? (unsigned)atoi(argv[2]) : 100000, seen = 0;
	struct km_errtext e;
	if (argc == 4 && !strcmp(argv[1], "--fill")) {
		dir = argv[2];
		folder_fill((unsigned)atoi(argv[3]));
		return 0;
	}
	if (argc < 2 || argc > 3 || n < 100)
		errx(2, "usage: bench-certs FILE.json [CERTIFICATES, at least 100]");
	double *ms = calloc(COLD, sizeof(*ms)), *cpu_ms = calloc(COLD, sizeof(*ms));
	rows = json_array();
	if (!mkdtemp(temp) || !ms || !cpu_ms)
		err(1, "%s", temp);
	atexit(folder_remove);
	folder_fill(n);
	row("kakuremichi", "certificates", n, "");
	/* What a start does: the store reads nothing, the names are listed once. */
	double from = now();
	struct certs *c = certs_new(&(struct certs_opts){"/nonexistent", dir, KEPT});
	row("kakuremichi", "store_start", (now() - from) * 1e3, "ms");
	certs_free(c);
	from = now();
	if (cache_open(dir, &e) || cache_each(dir, counts, &seen, &e))
		errx(1, "%s", e.text);
	row("kakuremichi", "names_listed", (now() - from) * 1e3, "ms");
	if (seen != n)
		errx(1, "%u of %u are listed", seen, n);
	cold(n, true, ms, cpu_ms);
	cold(n, false, ms, cpu_ms);
	memory(n);
	warm(n);
	peer(n, ms, cpu_ms);
	if (json_dump_file(rows, argv[1], JSON_INDENT(1)))
		errx(1, "%s cannot be written", argv[1]);
	json_decref(rows);
	free(ms);
	free(cpu_ms);
	return 0;
}
