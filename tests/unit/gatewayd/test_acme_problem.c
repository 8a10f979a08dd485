/* SPDX-License-Identifier: MIT */
/* Refusals of a CA: what they mean to us, what is told, and when it may be tried again. */
#include "gatewayd/acme/problem.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define URN "urn:ietf:params:acme:error:"
#define WALL 784111777000LL /* Sun, 06 Nov 1994 08:49:37 GMT */

static void answers(void **state)
{
	static const struct {
		int status;
		const char *body, *retry;
		enum acme_cause cause;
		const char *type, *text;
		int64_t after;
	} table[] = {
	    {400, "{\"type\":\"" URN "malformed\",\"detail\":\"bad\"}", NULL, ACME_PROTOCOL,
	     "malformed", "bad (malformed)", -1},
	    {403, "{\"type\":\"" URN "userActionRequired\",\"detail\":\"terms\"}", NULL,
	     ACME_ACCOUNT, "userActionRequired", NULL, -1},
	    {403, "{\"type\":\"" URN "externalAccountRequired\"}", NULL, ACME_ACCOUNT,
	     "externalAccountRequired", "no reason given (externalAccountRequired)", -1},
	    {400, "{\"type\":\"" URN "invalidContact\",\"title\":\"mail\"}", NULL, ACME_ACCOUNT,
	     "invalidContact", "mail (invalidContact)", -1},
	    {429, "{\"type\":\"" URN "rateLimited\",\"detail\":\"slow\"}", "60", ACME_RATE_LIMITED,
	     "rateLimited", NULL, 60000},
	    {429, "", NULL, ACME_RATE_LIMITED, "", "HTTP status 429 without a reason", -1},
	    {429, "{\"type\":\"" URN "malformed\"}", NULL, ACME_RATE_LIMITED, "malformed", NULL,
	     -1},
	    {503, "busy", "120", ACME_RATE_LIMITED, "", NULL, 120000},
	    {503, "busy", NULL, ACME_NETWORK, "", NULL, -1},
	    {500, "{\"type\":\"" URN "serverInternal\"}", NULL, ACME_NETWORK, "serverInternal",
	     NULL, -1},
	    {500, "{\"type\":\"about:blank\"}", NULL, ACME_NETWORK, "about:blank", NULL, -1},
	    {418, "{\"type\":\"https://x/y\"}", NULL, ACME_PROTOCOL, "https://x/y", NULL, -1},
	    {400, "[1]", NULL, ACME_PROTOCOL, "", "HTTP status 400 without a reason", -1},
	    {400, "{\"type\":7,\"detail\":{}}", NULL, ACME_PROTOCOL, "", "no reason given", -1},
	    {403, "{\"type\":\"" URN "caa\"}", NULL, ACME_VALIDATION, "caa", NULL, -1},
	    {403, "{\"type\":\"" URN "unauthorized\"}", NULL, ACME_VALIDATION, "unauthorized", NULL,
	     -1},
	    {400, "{\"type\":\"" URN "rejectedIdentifier\"}", NULL, ACME_REJECTED,
	     "rejectedIdentifier", NULL, -1},
	    {400, "{\"type\":\"" URN "badCSR\"}", NULL, ACME_LOCAL, "badCSR", NULL, -1},
	    {403,
	     "{\"type\":\"" URN "compound\",\"detail\":\"some\",\"subproblems\":[{\"type\":\"" URN
	     "dns\",\"detail\":\"NXDOMAIN\","
	     "\"identifier\":{\"type\":\"dns\",\"value\":\"a.test\"}},{\"type\":\"" URN
	     "caa\",\"detail\":\"no\"}]}",
	     NULL, ACME_VALIDATION, "dns", "some; a.test: NXDOMAIN; no (dns)", -1},
	    {400,
	     "{\"type\":\"" URN
	     "malformed\",\"detail\":\"d\",\"subproblems\":[1,null,{\"detail\":2},{\"type\":[]}]}",
	     NULL, ACME_PROTOCOL, "malformed", NULL, -1},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		struct acme_answer a = {.status = table[i].status,
					.body = table[i].body,
					.n = strlen(table[i].body),
					.retry_after = table[i].retry};
		struct acme_problem p;

		problem_answer(&p, &a, WALL);
		if (p.cause != table[i].cause || strcmp(p.type, table[i].type) != 0 ||
		    (table[i].text && strcmp(p.text, table[i].text) != 0))
			fail_msg("%d %s: %s [%s] %s", table[i].status, table[i].body,
				 acme_cause_str(p.cause), p.type, p.text);
		assert_int_equal(p.retry_at_ms, table[i].after < 0 ? 0 : WALL + table[i].after);
		assert_false(p.reached);
	}
}

static void no_answer(void **state)
{
	struct acme_problem p;

	(void)state;
	problem_answer(&p, &(struct acme_answer){.failed = "Could not resolve\r\nhost"}, WALL);
	assert_int_equal(p.cause, ACME_NETWORK);
	assert_string_equal(p.text, "Could not resolve  host");
	problem_answer(&p, &(struct acme_answer){0}, WALL);
	assert_string_equal(p.text, "no answer");
}

static void retry_after(void **state)
{
	static const struct {
		const char *value;
		int64_t ms;
	} table[] = {{NULL, -1},
		     {"", -1},
		     {"0", 0},
		     {"7", 7000},
		     {"99999999999999999999999", 30 * 86400000LL},
		     {"-1", -1},
		     {"7 ", -1},
		     {"7s", -1},
		     {"1.5", -1},
		     {"Sun, 06 Nov 1994 08:50:37 GMT", 60000},
		     {"Sunday, 06-Nov-94 08:50:37 GMT", 60000},
		     {"Sun Nov  6 08:50:37 1994", 60000},
		     {"Sun, 06 Nov 1994 08:40:00 GMT", 0}, /* past */
		     {"Fri, 31 Dec 9999 23:59:59 GMT", 30 * 86400000LL},
		     {"Sun, 06 Nov 1994 08:50:37 GMT and more", -1},
		     {"tomorrow", -1}};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++)
		if (problem_retry_after(table[i].value, WALL) != table[i].ms)
			fail_msg("%s: %ld", table[i].value,
				 (long)problem_retry_after(table[i].value, WALL));
}

static void text(void **state)
{
	static const struct {
		const char *in, *out;
	} table[] = {{"plain", "plain"},
		     {"a\x1b[31mb\r\n\tc\x7f", "a [31mb   c "},
		     {"\xc3\xa9\xe9\xc3", "\xc3\xa9  "},
		     {"a\xe2\x80\xae"
		      "b\xc2\x9b"
		      "c\xe2\x81\xa6"
		      "d\xe2\x80\xa8",
		      "a b c d "},
		     {"\xed\xa0\x80x", "   x"},
		     {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}};
	char out[64], small[8];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		problem_clean(out, sizeof(out), table[i].in);
		assert_string_equal(out, table[i].out);
	}
	problem_clean(small, sizeof(small), "123456\xc3\xa9"); /* a character is not cut */
	assert_string_equal(small, "123456");
	problem_clean(small, sizeof(small), "12345\xc3\xa9");
	assert_string_equal(small, "12345\xc3\xa9");
	problem_clean(small, 1, "x");
	assert_string_equal(small, "");
}

/* Whatever the length, a text that is put before another fits. */
static void long_text(void **state)
{
	struct acme_problem p;
	char *much = calloc(1, 100001);
	json_t *doc;

	(void)state;
	memset(much, 'x', 100000);
	doc = json_pack("{s:s, s:s, s:[{s:s},{s:s}]}", "type", much, "detail", much, "subproblems",
			"detail", much, "type", much);
	memset(&p, 0, sizeof(p));
	problem_read(&p, doc);
	problem_about(&p, much);
	assert_int_equal(strlen(p.text), sizeof(p.text) - 1);
	assert_int_equal(strlen(p.type), sizeof(p.type) - 1);
	problem_read(&p, NULL);
	assert_int_equal(p.cause, ACME_OK);
	json_decref(doc);
	free(much);
}

static void names(void **state)
{
	(void)state;
	for (int i = ACME_OK; i <= ACME_LOCAL; i++)
		assert_string_not_equal(acme_cause_str((enum acme_cause)i), "unknown");
	assert_string_equal(acme_cause_str((enum acme_cause)99), "unknown");
}

static void tokens_are_hidden(void **state)
{
	static const char token[] = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDf";
	struct acme_problem p;
	char text[sizeof(p.text)];

	(void)state;
	snprintf(p.text, sizeof(p.text), "expected %s.9jg46WB3_r-A, got %s", token, token);
	problem_hide(&p, token);
	assert_string_equal(p.text, "expected [token], got [token]");
	/* Cut off at the end, wherever it is. */
	for (size_t n = 0; n < sizeof(token); n++) {
		memset(text, 'x', sizeof(text));
		memcpy(text + sizeof(text) - n - 1, token, n);
		text[sizeof(text) - 1] = '\0';
		memcpy(p.text, text, sizeof(text));
		problem_hide(&p, token);
		assert_true(n < 8 ? !strcmp(p.text, text) : strstr(p.text, "x[token]") != NULL);
		assert_null(strstr(p.text, "LoqXcYV8"));
	}
	strcpy(p.text, "short");
	problem_hide(&p, "short");
	problem_hide(&p, "");
	assert_string_equal(p.text, "short");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tokens_are_hidden),
	    cmocka_unit_test(answers), cmocka_unit_test(no_answer), cmocka_unit_test(retry_after),
	    cmocka_unit_test(text),    cmocka_unit_test(long_text), cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
