/* SPDX-License-Identifier: MIT */
/* The control protocol's text, given to an engine without a network. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/uapi_text.h"
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* after the standard headers */
#include <cmocka.h>

#define PRIV "7807070707070707070707070707070707070707070707070707070707070747"
#define KEY1 "0101010101010101010101010101010101010101010101010101010101010101"
#define KEY2 "0202020202020202020202020202020202020202020202020202020202020202"
#define ZERO "0000000000000000000000000000000000000000000000000000000000000000"

static int silent_end; /* of the pipe that stands for a TUN device */

static int setup(void **state)
{
	struct wg_engine *e;
	int fds[2], udp;

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) || wg_udp_open(&udp, 0) ||
	    wg_engine_start(&e, fds[0], false, udp))
		return -1;
	silent_end = fds[1];
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	wg_engine_stop(*state);
	close(silent_end);
	return 0;
}

/* The whole reply as a string; NULL: the connection would end. The caller frees. */
static char *ask(struct wg_engine *e, const char *request, size_t n)
{
	struct km_buf b;
	char *text = NULL;

	km_buf_init(&b, 1 << 20);
	if (wg_uapi_answer(e, request, n, &b))
		text = strndup((const char *)km_buf_head(&b), b.len);
	km_buf_free(&b);
	return text;
}

static void assert_set(struct wg_engine *e, const char *request, const char *want)
{
	char *got = ask(e, request, strlen(request));

	assert_non_null(got);
	assert_string_equal(got, want);
	free(got);
}

/* What `get` says, without the port, which is the host's choice. */
static void assert_get(struct wg_engine *e, const char *want)
{
	char *got = ask(e, "get=1\n\n", 7), *port, *end;

	assert_non_null(got);
	port = strstr(got, "listen_port=");
	assert_non_null(port);
	end = strchr(port, '\n') + 1;
	memmove(port, end, strlen(end) + 1);
	assert_string_equal(got, want);
	free(got);
}

#define PEER(key, psk, endpoint, keepalive, allowed)                                               \
	"public_key=" key "\npreshared_key=" psk "\nprotocol_version=1\n" endpoint                 \
	"last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"          \
	"persistent_keepalive_interval=" keepalive "\n" allowed

static void what_is_set_is_shown(void **state)
{
	struct wg_engine *e = *state;

	assert_get(e, "errno=0\n\n");
	assert_set(e, "set=1\nprivate_key=" PRIV "\n\n", "errno=0\n\n");
	assert_set(e,
		   "set=1\npublic_key=" KEY1 "\nreplace_allowed_ips=true\n"
		   "allowed_ip=10.1.0.0/24\nallowed_ip=fd00::/64\nendpoint=[2001:db8::1]:51820\n\n",
		   "errno=0\n\n");
	assert_get(e, "private_key=" PRIV
		      "\n" PEER(KEY1, ZERO, "endpoint=[2001:db8::1]:51820\n", "0",
				"allowed_ip=10.1.0.0/24\nallowed_ip=fd00::/64\n") "errno=0\n\n");
	/* more of it, and a second peer that takes one of its prefixes; none has both an endpoint
	 * and a reason to speak */
	assert_set(e,
		   "set=1\npublic_key=" KEY1 "\nallowed_ip=10.3.0.1/32\nallowed_ip=-fd00::/64\n"
		   "endpoint=192.0.2.9:1234\n"
		   "public_key=" KEY2 "\npreshared_key=" KEY1 "\nallowed_ip=10.1.0.0/24\n"
		   "persistent_keepalive_interval=25\n\n",
		   "errno=0\n\n");
	assert_get(e, "private_key=" PRIV "\n" PEER(KEY1, ZERO, "endpoint=192.0.2.9:1234\n", "0",
						    "allowed_ip=10.3.0.1/32\n")
			  PEER(KEY2, KEY1, "", "25", "allowed_ip=10.1.0.0/24\n") "errno=0\n\n");
	assert_set(e, "set=1\npublic_key=" KEY1 "\nremove=true\n\n", "errno=0\n\n");
	assert_get(e, "private_key=" PRIV
		      "\n" PEER(KEY2, KEY1, "", "25", "allowed_ip=10.1.0.0/24\n") "errno=0\n\n");
	/* update_only makes no peer */
	assert_set(e, "set=1\npublic_key=" KEY1 "\nupdate_only=true\nallowed_ip=10.9.0.0/24\n\n",
		   "errno=0\n\n");
	assert_set(e, "set=1\nreplace_peers=true\nprivate_key=" ZERO "\n\n", "errno=0\n\n");
	assert_get(e, "errno=0\n\n");
}

static void malformed_is_refused(void **state)
{
	static const char *const bad[] = {
	    "private_key=01",
	    "private_key=" KEY1 "00",
	    "public_key=" KEY1 "00",
	    "public_key",
	    "public_key=" KEY1 "\nallowed_ip=10.1.0.0/33",
	    "public_key=" KEY1 "\nallowed_ip=fd00::/129",
	    "public_key=" KEY1 "\nendpoint=192.0.2.1",
	    "public_key=" KEY1 "\nendpoint=host.example:1",
	    "public_key=" KEY1 "\npersistent_keepalive_interval=65536",
	    "public_key=" KEY1 "\npersistent_keepalive_interval=-1",
	    "public_key=" KEY1 "\nremove=yes",
	    "public_key=" KEY1 "\nprotocol_version=2",
	    "public_key=" KEY1 "\nlisten_port=1",
	    "listen_port=65536",
	    "fwmark=x",
	    "replace_peers=1",
	    "something_new=1",
	};
	struct wg_engine *e = *state;
	char *got;

	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		char *text = km_xasprintf("set=1\n%s\n\n", bad[i]);

		assert_set(e, text, "errno=-22\n\n");
		free(text);
	}
	got = ask(e, "put=1\n\n", 7);
	assert_null(got);
	got = ask(e, "get=2\n\n", 7);
	assert_null(got);
}

/* Cut at every byte and flipped at every bit: no crash, and the sanitizers see every overrun since
 * each text has its own allocation. */
static void damaged_does_no_harm(void **state)
{
	static const char text[] =
	    "set=1\nprivate_key=" PRIV "\nreplace_peers=true\npublic_key=" KEY1
	    "\npreshared_key=" KEY2 "\nreplace_allowed_ips=true\nallowed_ip=10.1.0.0/24\n"
	    "allowed_ip=fd00::/64\nendpoint=[2001:db8::1]:51820\n"
	    "persistent_keepalive_interval=25\nprotocol_version=1\n\n";
	struct wg_engine *e = *state;
	size_t len = sizeof(text) - 1;

	for (size_t cut = 0; cut <= len; cut++) {
		char *copy = malloc(cut ? cut : 1);

		memcpy(copy, text, cut);
		assert_int_equal(wg_uapi_request_len(copy, cut), cut == len ? len : 0);
		free(ask(e, copy, cut));
		free(copy);
	}
	for (size_t bit = 0; bit < len * 8; bit++) {
		char *copy = malloc(len);

		memcpy(copy, text, len);
		copy[bit / 8] ^= (char)(1 << bit % 8);
		free(ask(e, copy, len));
		free(copy);
	}
}

#define MANY 2000

struct many {
	struct wg_engine *e;
	char *request, *reply;
	atomic_bool done;
};

static void *ask_many(void *arg)
{
	struct many *m = arg;

	m->reply = ask(m->e, m->request, strlen(m->request));
	atomic_store(&m->done, true);
	return NULL;
}

/* Whether another had the core's lock while some, but not all, of the request was done. */
static bool seen_half_done(struct many *m, char *request)
{
	bool seen = false;
	pthread_t t;
	size_t n;

	m->request = request;
	atomic_store(&m->done, false);
	assert_int_equal(pthread_create(&t, NULL, ask_many, m), 0);
	while (!atomic_load(&m->done)) {
		n = wg_engine_lock(m->e)->n_peers;
		wg_engine_unlock(m->e);
		seen |= n > 0 && n < MANY;
	}
	pthread_join(t, NULL);
	return seen;
}

/* Thousands of peers in one request, set and shown: handshakes have their turns between them. */
static void thousands_take_turns(void **state)
{
	struct many m = {.e = *state};
	char get[] = "get=1\n\n";
	const char *at;
	struct km_buf b;
	unsigned n = 0;
	bool seen = false;

	assert_set(m.e, "set=1\nprivate_key=" PRIV "\n\n", "errno=0\n\n");
	km_buf_init(&b, 1 << 20);
	assert_int_equal(km_buf_adds(&b, "set=1\n"), 0);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(km_buf_addf(&b, "public_key=%056x%08x\nallowed_ip=10.1.%u.%u/32\n",
					     i * 2654435761U, i + 9, i / 256, i % 256),
				 0);
	assert_int_equal(km_buf_add(&b, "\n", 2), 0); /* and the string's end */
	/* A busy machine may not let this thread run meanwhile. */
	for (unsigned i = 0; i < 20 && !seen; i++) {
		assert_set(m.e, "set=1\nreplace_peers=true\n\n", "errno=0\n\n");
		seen = seen_half_done(&m, (char *)km_buf_head(&b));
		assert_string_equal(m.reply, "errno=0\n\n");
		free(m.reply);
	}
	assert_true(seen);
	(void)seen_half_done(&m, get);
	for (at = m.reply; (at = strstr(at, "public_key=")) != NULL; at++)
		n++;
	assert_int_equal(n, MANY);
	free(m.reply);
	km_buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(what_is_set_is_shown, setup, teardown),
	    cmocka_unit_test_setup_teardown(malformed_is_refused, setup, teardown),
	    cmocka_unit_test_setup_teardown(damaged_does_no_harm, setup, teardown),
	    cmocka_unit_test_setup_teardown(thousands_take_turns, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
