/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/ledger.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[32], path[64], broken[80];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/km-ledger-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/certificates.log", dir);
	snprintf(broken, sizeof(broken), "%s.broken", path);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	unlink(broken);
	return rmdir(dir);
}

static struct ledger *open_it(void)
{
	struct km_errtext err = {""};
	struct ledger *l = NULL;
	assert_int_equal(ledger_open(&l, path, &err), 0);
	return l;
}

static off_t size(const char *p)
{
	struct stat st;
	return stat(p, &st) ? -1 : st.st_size;
}

static void everything_comes_back(void **state)
{
	static const uint8_t gateway[16] = {1, 2, 3}, other[16] = {9};
	struct ledger *l = open_it();
	struct ledger_entry *e = ledger_get(l, "a.example.org+rsa");
	(void)state;
	e->not_before_ms = 1000;
	e->not_after_ms = 2000;
	memset(e->fingerprint, 0xab, 32);
	e->issuer = ledger_issuer(l, "R\"1\"\n");
	ledger_text(&e->ari_id, "aki.serial");
	e->ari_start_ms = 3;
	e->ari_end_ms = 4;
	e->ari_ms = 5;
	e->ari_again_ms = 6;
	e->failures = 7;
	e->cause = ACME_VALIDATION;
	ledger_text(&e->error, "the CA says \"no\" — ça");
	e->next_try_ms = 8;
	ledger_text(&e->order_url, "https://ca.test/order/1");
	assert_true(ledger_holder(e, gateway));
	assert_false(ledger_holder(e, gateway));
	e->distrusted = true;
	e->alerted_ms = 10;
	assert_int_equal(ledger_save(l, e, true), 0);
	ledger_free(l);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);

	l = open_it();
	assert_null(ledger_find(l, "a.example.org"));
	e = ledger_find(l, "a.example.org+rsa");
	assert_non_null(e);
	assert_int_equal(e->not_before_ms, 1000);
	assert_int_equal(e->not_after_ms, 2000);
	assert_int_equal(e->fingerprint[31], 0xab);
	assert_string_equal(e->issuer, "R\"1\"\n");
	assert_string_equal(e->ari_id, "aki.serial");
	assert_int_equal(e->ari_start_ms + 10 * e->ari_end_ms + 100 * e->ari_ms + 1000 * e->ari_again_ms,
			 6543);
	assert_int_equal(e->failures, 7);
	assert_int_equal(e->cause, ACME_VALIDATION);
	assert_string_equal(e->error, "the CA says \"no\" — ça");
	assert_int_equal(e->next_try_ms, 8);
	assert_string_equal(e->order_url, "https://ca.test/order/1");
	assert_true(ledger_held_by(e, gateway));
	assert_false(ledger_held_by(e, other));
	assert_true(e->distrusted);
	assert_int_equal(e->alerted_ms, 10);
	ledger_no_certificate(e);
	assert_int_equal(ledger_save(l, e, false), 0);
	ledger_free(l);

	l = open_it();
	e = ledger_find(l, "a.example.org+rsa");
	assert_int_equal(e->not_after_ms, 0);
	assert_int_equal(e->n_holders, 0);
	assert_int_equal(e->failures, 7);
	ledger_forget(l, e);
	ledger_free(l);
	l = open_it();
	assert_int_equal(ledger_count(l), 0);
	ledger_free(l);
}

static void put(const char *text)
{
	FILE *f = fopen(path, "w");
	fputs(text, f);
	fclose(f);
}

static void torn(void **state)
{
	static const char whole[] = "{\"name\":\"a\",\"notAfter\":5}\n{\"name\":\"b\",\"notAfter\":6}\n";
	(void)state;
	for (size_t n = 0; n < sizeof(whole); n++) {
		char text[sizeof(whole)];
		snprintf(text, n + 1, "%s", whole);
		put(text);
		struct ledger *l = open_it();
		assert_int_equal(ledger_count(l), n == sizeof(whole) - 1 ? 2 : n >= 26);
		struct ledger_entry *e = ledger_get(l, "c");
		assert_int_equal(ledger_save(l, e, false), 0);
		ledger_free(l);
		l = open_it();
		assert_non_null(ledger_find(l, "c"));
		ledger_free(l);
		assert_int_equal(size(broken), -1);
	}
}

static void damaged(void **state)
{
	(void)state;
	put("{\"name\":\"a\",\"notAfter\":5}\n{\"name\":\"b\",\"not\n{\"name\":\"c\"}\n");
	struct ledger *l = open_it();
	assert_non_null(ledger_find(l, "a"));
	assert_int_equal(ledger_count(l), 1);
	assert_true(size(broken) > 0);
	assert_int_equal(size(path), -1);
	assert_int_equal(ledger_save(l, ledger_get(l, "d"), true), 0);
	ledger_free(l);
	l = open_it();
	assert_int_equal(ledger_find(l, "a")->not_after_ms, 5);
	assert_non_null(ledger_find(l, "d"));
	ledger_free(l);
	static const char *const odd[] = {"[]\n", "{}\n", "{\"name\":5}\n", "{\"name\":\"\"}\n", "\n", "\x80\n"};
	for (size_t i = 0; i < KM_ARRAY_LEN(odd); i++) {
		put(odd[i]);
		unlink(broken);
		l = open_it();
		assert_int_equal(ledger_count(l), 0);
		assert_true(size(broken) > 0);
		ledger_free(l);
	}
}

static void long_log(void **state)
{
	struct ledger *l = open_it();
	struct ledger_entry *e = ledger_get(l, "a");
	off_t one = 0, largest = 0;
	(void)state;
	for (int i = 0; i < 5000; i++) {
		e->not_after_ms = 100000 + i;
		assert_int_equal(ledger_save(l, e, false), 0);
		one = i ? one : size(path);
		largest = size(path) > largest ? size(path) : largest;
	}
	ledger_free(l);
	assert_true(largest <= 1100 * one);
	l = open_it();
	assert_int_equal(ledger_find(l, "a")->not_after_ms, 104999);
	ledger_free(l);
}

static void nowhere_to_write(void **state)
{
	struct ledger *l = open_it();
	struct ledger_entry *e = ledger_get(l, "a");
	char away[64];
	(void)state;
	snprintf(away, sizeof(away), "%s.away", dir);
	assert_int_equal(rename(dir, away), 0);
	assert_int_equal(ledger_save(l, e, true), KM_EIO);
	assert_int_equal(ledger_save(l, e, true), KM_EIO);
	assert_int_equal(ledger_settle(l), KM_EIO);
	assert_int_equal(rename(away, dir), 0);
	assert_int_equal(ledger_settle(l), 0);
	assert_int_equal(ledger_settle(l), 0);
	ledger_free(l);
	l = open_it();
	assert_non_null(ledger_find(l, "a"));
	ledger_free(l);
}

static void tidy(void **state)
{
	struct ledger *l = open_it();
	const int64_t now = 1000LL * 86400000;
	(void)state;
	ledger_get(l, "used")->used = true;
	ledger_get(l, "old")->not_after_ms = now - 31LL * 86400000;
	ledger_get(l, "ended")->not_after_ms = now - 29LL * 86400000;
	ledger_get(l, "failed")->next_try_ms = now;
	ledger_get(l, "distrusted")->distrusted = true;
	ledger_tidy(l, now);
	assert_int_equal(ledger_count(l), 4);
	assert_null(ledger_find(l, "old"));
	ledger_free(l);
}

/* Prints how long a start takes with so many; what a sanitizer makes of it is nobody's business. */
static void many(void **state)
{
	enum { N = 100000 };
	struct ledger *l = open_it();
	char name[64];
	(void)state;
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof(name), "name-%d.example.org", i);
		struct ledger_entry *e = ledger_get(l, name);
		e->not_before_ms = 1795000000000;
		e->not_after_ms = 1803000000000 + i;
		km_random(e->fingerprint, sizeof(e->fingerprint));
		e->issuer = ledger_issuer(l, "E7");
		ledger_text(&e->ari_id, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
		e->ari_start_ms = e->ari_end_ms = e->ari_ms = e->ari_again_ms = e->not_after_ms;
		assert_int_equal(ledger_save(l, e, false), 0);
	}
	ledger_free(l);
	int64_t from = km_now_ms();
	l = open_it();
	int64_t took = km_now_ms() - from;
	assert_int_equal(ledger_count(l), N);
	assert_int_equal(ledger_find(l, "name-99999.example.org")->not_after_ms, 1803000099999);
	print_message("%d names, %lld bytes: read in %lld ms\n", N, (long long)size(path), (long long)took);
	ledger_free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(everything_comes_back, setup, teardown),
	    cmocka_unit_test_setup_teardown(torn, setup, teardown),
	    cmocka_unit_test_setup_teardown(damaged, setup, teardown),
	    cmocka_unit_test_setup_teardown(long_log, setup, teardown),
	    cmocka_unit_test_setup_teardown(nowhere_to_write, setup, teardown),
	    cmocka_unit_test_setup_teardown(tidy, setup, teardown),
	    cmocka_unit_test_setup_teardown(many, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
