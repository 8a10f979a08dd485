/* SPDX-License-Identifier: MIT */
/* Memory ends at every allocation of the replica in turn: KM_ENOMEM with nothing changed and no
 * hook called, or success. The modules are included with an allocator that fails at a chosen call.
 */
#include <jansson.h>
#include "tests/unit/failing.h"

#define malloc test_malloc
#define calloc test_calloc
#include "libkm/replica/apply.c"
#include "libkm/replica/item.c"
#include "libkm/replica/replica.c"
#undef malloc
#undef calloc

#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

#define ID(n) "00000000-0000-4000-8000-00000000000" #n
#define SELF_JSON                                                                                  \
	"\"agent\": {\"id\": \"" ID(9) "\", \"name\": \"n\", \"virtualIp\": \"10.1.0.100\", "      \
				       "\"subnet\": \"10.1.0.0/24\"}"
#define TUNNEL(n, target)                                                                          \
	"{\"id\": \"" ID(n) "\", \"domain\": \"d\", \"enabled\": true, \"targetId\": \"" ID(       \
	    8) "\", \"target\": \"" target "\"}"
#define FIRST                                                                                      \
	"{\"epoch\": \"e\", \"revision\": 1, " SELF_JSON ", \"tunnels\": [" TUNNEL(1, "h:1") "]}"
#define SECOND                                                                                     \
	"{\"epoch\": \"e\", \"revision\": 2, " SELF_JSON                                           \
	", \"tunnels\": [" TUNNEL(1, "h:2") ", " TUNNEL(2, "h:3") "]}"
#define CHANGE                                                                                     \
	"{\"epoch\": \"e\", \"revision\": 3, \"previous\": 2, \"tunnel\": " TUNNEL(3, "h:4") "}"

static int called;

static int on_tunnel(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		     struct km_errtext *err)
{
	(void)arg;
	(void)was;
	(void)is;
	(void)err;
	called++;
	return 0;
}

/* Gives the message with one more allocation each time until it is taken; how often it was not. */
static int take_at_last(struct km_replica *r, const char *type, const char *text, int calls)
{
	json_t *data = json_loads(text, 0, NULL), *ack = NULL;
	int64_t revision = km_replica_revision(r);
	struct km_errtext err;
	int e = KM_ENOMEM;
	long n;

	assert_non_null(data);
	called = 0;
	for (n = 0; e; n++) {
		allocations_left = n;
		e = km_replica_take(r, type, data, &ack, &err);
		allocations_left = -1;
		if (!e)
			break;
		assert_int_equal(e, KM_ENOMEM);
		assert_int_equal(called, 0);
		assert_int_equal(km_replica_revision(r), revision);
	}
	assert_int_equal(called, calls);
	json_decref(ack);
	json_decref(data);
	return (int)n;
}

static void every_allocation(void **state)
{
	static const struct km_replica_hooks hooks = {.tunnel = on_tunnel};
	char dir[] = "/tmp/km-replica-XXXXXX", path[64];
	struct km_replica *r;
	struct km_errtext err;

	(void)state;
	assert_non_null(mkdtemp(dir));
	allocations_left = 0;
	assert_int_equal(km_replica_open(&r, dir, &hooks, NULL, &err), KM_ENOMEM);
	allocations_left = -1;
	assert_int_equal(km_replica_open(&r, dir, &hooks, NULL, &err), 0);
	assert_true(take_at_last(r, "config", FIRST, 1) > 3);
	assert_true(take_at_last(r, "config", SECOND, 2) > 3);
	assert_string_equal(km_replica_tunnel(r, ID(1))->target, "h:2");
	assert_true(take_at_last(r, "tunnel_create", CHANGE, 1) > 0);
	assert_string_equal(km_replica_tunnel(r, ID(3))->target, "h:4");
	km_replica_free(r);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, i ? "config.json" : "config.journal");
		unlink(path);
	}
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
