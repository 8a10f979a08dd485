/* SPDX-License-Identifier: MIT */
/* What the vectors under proto/ cannot say: bounds of long fields, equality, lack of memory. The
 * module is included with an allocator that fails at a chosen call. */
#include "tests/unit/failing.h"

#define calloc test_calloc
#define strdup test_strdup
#include "libkm/msg/msg.c"
#undef calloc
#undef strdup

#include <setjmp.h>

#include <cmocka.h>

#define ID "00000000-0000-4000-8000-000000000001"
#define CONFIG                                                                                     \
	"{\"epoch\": \"e\", \"revision\": 1, \"agent\": {\"id\": \"" ID                            \
	"\", \"name\": \"n\", \"virtualIp\": \"10.1.0.100\", \"subnet\": \"10.1.0.0/24\"}, "       \
	"\"gateways\": [{\"id\": \"" ID                                                            \
	"\", \"name\": \"n\", \"virtualIps\": [\"10.0.0.1\", \"10.0.0.2\"]}], \"tunnels\": "       \
	"[{\"id\": \"" ID "\", \"domain\": \"d\", \"enabled\": true, \"targetId\": \"" ID          \
	"\", \"target\": \"h:1\"}]}"

static json_t *json(const char *text)
{
	json_t *v = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

	assert_non_null(v);
	return v;
}

static void parse_config(struct km_msg_config *c)
{
	json_t *v = json(CONFIG);

	assert_int_equal(km_msg_parse(&km_msg_desc_config, c, v, NULL), 0);
	json_decref(v);
}

static void find_knows_the_sides(void **state)
{
	(void)state;
	assert_ptr_equal(km_msg_find(KM_MSG_FROM_CLIENT, "auth"), &km_msg_desc_auth);
	assert_null(km_msg_find(KM_MSG_FROM_CONTROL, "auth"));
	assert_ptr_equal(km_msg_find(KM_MSG_FROM_CONTROL, "tunnel_delete"), &km_msg_desc_change);
	assert_null(km_msg_find(KM_MSG_FROM_CLIENT, "tunnel_delete"));
	assert_null(km_msg_find(KM_MSG_FROM_CLIENT, ""));
}

/* Every string of every struct: max bytes pass, one more does not. */
static void string_bounds(void **state)
{
	struct km_errtext err;
	char *text = malloc(50000);

	(void)state;
	for (size_t i = 0; i < km_msg_desc_certificate_obtained.n_fields; i++) {
		const struct field *f = &km_msg_desc_certificate_obtained.fields[i];
		struct km_msg_certificate_obtained m;

		if (f->kind != KIND_STR)
			continue;
		for (int over = 0; over < 2; over++) {
			json_t *v = json("{\"domain\": \"d\", \"certificate\": \"c\", "
					 "\"expiresAt\": \"2026-11-21T07:02:13Z\"}");
			size_t n = (size_t)f->max + (size_t)over;

			memset(text, 'x', n);
			json_object_set_new(v, f->json, json_stringn(text, n));
			assert_int_equal(
			    km_msg_parse(&km_msg_desc_certificate_obtained, &m, v, &err),
			    over ? KM_EINVAL : 0);
			km_msg_clear(&km_msg_desc_certificate_obtained, &m);
			json_decref(v);
		}
	}
	free(text);
}

static void array_bound(void **state)
{
	json_t *v = json("{\"tunnels\": []}"), *list = json_object_get(v, "tunnels");
	json_t *one = json("{\"id\": \"" ID "\"}");
	struct km_msg_status m;
	struct km_errtext err;

	(void)state;
	for (int i = 0; i < 4096; i++)
		json_array_append(list, one);
	assert_int_equal(km_msg_parse(&km_msg_desc_status, &m, v, &err), 0);
	assert_int_equal(m.n_tunnels, 4096);
	km_msg_clear(&km_msg_desc_status, &m);
	json_array_append(list, one);
	assert_int_equal(km_msg_parse(&km_msg_desc_status, &m, v, &err), KM_EINVAL);
	assert_string_equal(err.text, "tunnels: more than 4096 elements");
	json_decref(one);
	json_decref(v);
}

/* Each single change of a field makes it another. */
static void equal_sees_every_field(void **state)
{
	static const char *const other[] = {
	    "{\"epoch\": \"f\"}",
	    "{\"revision\": 2}",
	    "{\"agent\": null}",
	    "{\"agent\": {\"id\": \"" ID "\", \"name\": \"m\", \"virtualIp\": \"10.1.0.100\", "
	    "\"subnet\": \"10.1.0.0/24\"}}",
	    "{\"gateways\": []}",
	    "{\"gateways\": [{\"id\": \"" ID "\", \"name\": \"n\", \"virtualIps\": [\"10.0.0.1\", "
	    "\"10.0.0.3\"]}]}",
	    "{\"gateways\": [{\"id\": \"" ID "\", \"name\": \"n\", \"wireguardPort\": 1, "
	    "\"virtualIps\": [\"10.0.0.1\", \"10.0.0.2\"]}]}",
	    "{\"tunnels\": [{\"id\": \"" ID "\", \"domain\": \"d\", \"enabled\": false, "
	    "\"targetId\": \"" ID "\", \"target\": \"h:1\"}]}",
	    "{\"tunnels\": [{\"id\": \"" ID "\", \"domain\": \"d\", \"enabled\": true, \"path\": "
	    "\"\", \"targetId\": \"" ID "\", \"target\": \"h:1\"}]}",
	    "{\"certificates\": [{\"domain\": \"d\"}]}",
	};
	struct km_msg_config a, b;

	(void)state;
	parse_config(&a);
	for (size_t i = 0; i < KM_ARRAY_LEN(other); i++) {
		json_t *v = json(CONFIG), *o = json(other[i]);

		json_object_update(v, o);
		assert_int_equal(km_msg_parse(&km_msg_desc_config, &b, v, NULL), 0);
		assert_false(km_msg_equal(&km_msg_desc_config, &a, &b));
		assert_false(km_msg_equal(&km_msg_desc_config, &b, &a));
		km_msg_clear(&km_msg_desc_config, &b);
		json_decref(o);
		json_decref(v);
	}
	parse_config(&b);
	assert_true(km_msg_equal(&km_msg_desc_config, &a, &b));
	km_msg_clear(&km_msg_desc_config, &b);
	km_msg_clear(&km_msg_desc_config, &a);
}

static void format_of_what_a_program_made(void **state)
{
	struct km_msg_config_ack ack = {.epoch = (char *)"e", .revision = 3};
	json_t *v = km_msg_format(&km_msg_desc_config_ack, &ack);
	char *text = json_dumps(v, JSON_COMPACT);

	(void)state;
	/* Required ones without has_FIELD are there, optional ones are not. */
	assert_string_equal(text, "{\"epoch\":\"e\",\"revision\":3,\"success\":false}");
	free(text);
	json_decref(v);
	ack.error = (char *)"\xff";
	assert_null(km_msg_format(&km_msg_desc_config_ack, &ack));
}

/* Memory ends at every allocation in turn: KM_ENOMEM, nothing kept (LeakSanitizer), nothing
 * crashes. */
static void no_memory_anywhere(void **state)
{
	struct km_msg_config m, copy, zero;
	json_t *v = json(CONFIG);
	struct km_errtext err;
	int r = KM_ENOMEM;
	long n;

	(void)state;
	memset(&zero, 0, sizeof zero);
	for (n = 0; r; n++) {
		allocations_left = n;
		r = km_msg_parse(&km_msg_desc_config, &m, v, &err);
		assert_true(!r || r == KM_ENOMEM);
		if (r)
			assert_memory_equal(&m, &zero, sizeof m);
	}
	assert_in_range(n, 10, 100);
	for (n = 0, r = KM_ENOMEM; r; n++) {
		allocations_left = n;
		r = km_msg_copy(&km_msg_desc_config, &copy, &m);
		assert_true(!r || r == KM_ENOMEM);
		if (r)
			assert_memory_equal(&copy, &zero, sizeof copy);
	}
	assert_in_range(n, 10, 100);
	allocations_left = -1;
	assert_true(km_msg_equal(&km_msg_desc_config, &m, &copy));
	km_msg_clear(&km_msg_desc_config, &m);
	km_msg_clear(&km_msg_desc_config, &copy);
	json_decref(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(find_knows_the_sides),
	    cmocka_unit_test(string_bounds),
	    cmocka_unit_test(array_bound),
	    cmocka_unit_test(equal_sees_every_field),
	    cmocka_unit_test(format_of_what_a_program_made),
	    cmocka_unit_test(no_memory_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
