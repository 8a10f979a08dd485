/* SPDX-License-Identifier: MIT */
/* Digests of stored secrets: what docs/protocol.md says, and alike for nothing else. */
#include "controld/pki/vault.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
/* after the standard headers */
#include <cmocka.h>

static struct vault vault;
#define ID "11111111-1111-4111-8111-111111111111"

static int setup(void **state)
{
	(void)state;
	for (unsigned i = 0; i < sizeof(vault.master.key); i++)
		vault.master.key[i] = (uint8_t)i;
	return 0;
}

/* Worked out with another HMAC, as docs/protocol.md has it. */
static void as_documented(void **state)
{
	char text[VAULT_TEXT_LEN];

	(void)state;
	assert_string_equal(vault_digest_text(&vault, text, VAULT_TOKEN("id", "admin", "kmt_x")),
			    "\\x4b8deaaf11e4aa469ca3730c30a982767ccef564bea670d1eb5ea5cf440794e8");
	assert_string_equal(vault_digest_text(&vault, text, (const char *const[]){NULL}),
			    "\\x56af0ee881d5b705bf8832c6dcd62dabb96e0c78b1870279a19d4af125d246a3");
}

/* No two of these are alike: another purpose, kind, id, number, role, secret, key, or another cut.
 */
static void bound_to_its_place(void **state)
{
	const char *const *const lists[] = {
	    VAULT_API_KEY("agent", ID, "256", "agt_x"),
	    VAULT_API_KEY("gateway", ID, "256", "agt_x"),
	    VAULT_API_KEY("agent", "21111111-1111-4111-8111-111111111111", "256", "agt_x"),
	    VAULT_API_KEY("agent", ID, "257", "agt_x"),
	    VAULT_API_KEY("agent", ID, "256", "agt_y"),
	    VAULT_JOIN_TOKEN("agent", ID, "256", "agt_x"),
	    VAULT_TOKEN(ID, "admin", "agt_x"),
	    VAULT_TOKEN(ID, "viewer", "agt_x"),
	    VAULT_AUTHORITY("ff", "active"),
	    VAULT_AUTHORITY("ff", "trusted"),
	    VAULT_PARTS("a", "bc"),
	    VAULT_PARTS("ab", "c"),
	    VAULT_PARTS("abc"),
	    VAULT_PARTS("abc", ""),
	    VAULT_PARTS("", "abc"),
	    VAULT_PARTS(""),
	};
	struct vault other = {.master = {.key = {1}}};
	char a[VAULT_TEXT_LEN], b[VAULT_TEXT_LEN];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(lists); i++) {
		vault_digest_text(&vault, a, lists[i]);
		assert_string_not_equal(a, vault_digest_text(&other, b, lists[i]));
		for (size_t j = 0; j < KM_ARRAY_LEN(lists); j++)
			assert_int_equal(vault_digest_is(&vault, a + 2, lists[j]), i == j);
	}
}

static void what_is_no_digest(void **state)
{
	const char *const *parts = VAULT_TOKEN(ID, "admin", "kmt_x");
	char text[VAULT_TEXT_LEN], cut[VAULT_TEXT_LEN];

	(void)state;
	vault_digest_text(&vault, text, parts);
	assert_true(vault_digest_is(&vault, text + 2, parts));
	assert_false(vault_digest_is(&vault, text, parts)); /* hex alone */
	assert_false(vault_digest_is(&vault, "", parts));
	for (size_t i = 2; i < sizeof(text) - 1; i++) {
		memcpy(cut, text, sizeof(cut));
		cut[i] = 0;
		assert_false(vault_digest_is(&vault, cut + 2, parts));
		memcpy(cut, text, sizeof(cut));
		cut[i] = cut[i] == '0' ? '1' : '0';
		assert_false(vault_digest_is(&vault, cut + 2, parts));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(as_documented),
	    cmocka_unit_test(bound_to_its_place),
	    cmocka_unit_test(what_is_no_digest),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
