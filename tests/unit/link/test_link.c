/* SPDX-License-Identifier: MIT */
/* Client and server of the link in one process, over TLS on loopback. */
#include "tests/unit/link/harness.h"
#include <dirent.h>
#include <sys/resource.h>

static void messages_pass_both_ways(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	wait_for(s.opened, 1);
	assert_string_equal(s.type, "agent");
	assert_int_equal(km_link_client_send(c.c, "auth", json_pack("{s:s}", "apiKey", "agt_x")),
			 0);
	wait_for(s.messages, 1);
	assert_string_equal(s.msg_type, "auth");
	assert_string_equal(json_string_value(json_object_get(s.data, "apiKey")), "agt_x");
	assert_int_equal(km_link_server_send(s.s, s.last_id, "auth_success",
					     json_pack("{s:s}", "message", "隠れ道 \"quoted\"")),
			 0);
	wait_for(c.messages, 1);
	assert_string_equal(c.msg_type, "auth_success");
	assert_string_equal(json_string_value(json_object_get(c.data, "message")),
			    "隠れ道 \"quoted\"");
	client_end(&c);
	wait_for(s.closed, 1);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_null()), KM_ECLOSED);
	server_end(&s);
}

static void a_long_message_comes_in_parts(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	json_t *data = json_array();

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(s.opened, 1);
	for (int i = 0; i < 60000; i++)
		json_array_append_new(data, json_sprintf("%d \"隠れ道\" \\ %0*d", i, i % 60, 0));
	char *text = json_dumps(data, JSON_COMPACT);
	assert_true(strlen(text) > 3u << 20);
	free(text);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_incref(data)), 0);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "error", json_null()), 0);
	wait_for(c.messages, 2);
	assert_true(json_equal(c.first, data));
	assert_string_equal(c.msg_type, "error");
	json_decref(data);
	client_end(&c);
	server_end(&s);
}

static void a_huge_message_is_one_at_a_time(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(s.opened, 1);
	json_t *huge = text_of_length(20u << 20);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_incref(huge)), 0);
	wait_for(c.messages, 1);
	assert_int_equal(json_string_length(c.data), 20u << 20);
	/* one who does not read */
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	wait_for(s.opened, 2);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_incref(huge)), 0);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "tunnel_create", json_null()), 0);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", huge), KM_EFULL);
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "too slow"));
	raw_close(&r);
	client_end(&c);
	server_end(&s);
}

static void another_root_is_refused(void **state)
{
	struct pki other = pki_make((struct pki_opts){0});
	struct server s = {0};
	struct client c = {0};
	char url[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&c, url, other.pin);
	wait_for(c.closed, 3); /* it goes on trying */
	assert_non_null(strstr(c.why, "wrong pin"));
	assert_non_null(strstr(c.why, pki.pin));
	assert_true(c.wait_ms >= 1 && c.wait_ms <= 80);
	assert_int_equal(c.opened, 0);
	assert_int_equal(s.opened, 0);
	client_end(&c);
	server_end(&s);
	pki_free(&other);
}

static void an_expired_certificate_is_refused(void **state)
{
	struct pki old = pki_make((struct pki_opts){.leaf_expired = true});
	struct server s = {0};
	struct client c = {0};
	char url[64];

	(void)state;
	serve_with(&s,
		   (struct km_link_server_opts){.cert_pem = old.chain_pem, .key_pem = old.key_pem});
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&c, url, old.pin);
	wait_for(c.closed, 1);
	assert_non_null(strstr(c.why, "expired"));
	client_end(&c);
	server_end(&s);
	pki_free(&old);
}

static void a_new_certificate_is_for_new_connections(void **state)
{
	struct pki next = pki_make((struct pki_opts){0});
	struct server s = {.authenticate = true};
	struct client a = {0}, b = {0};
	struct km_errtext err;
	char url[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&a, &s);
	wait_for(s.opened, 1);
	assert_int_equal(km_link_server_set_certificate(s.s, next.chain_pem, pki.key_pem, &err),
			 KM_EINVAL);
	assert_non_null(strstr(err.text, "does not belong"));
	assert_int_equal(km_link_server_set_certificate(s.s, "x", "y", &err), KM_EINVAL);
	assert_int_equal(km_link_server_set_certificate(s.s, next.chain_pem, next.key_pem, &err),
			 0);
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&b, url, next.pin);
	wait_for(b.opened, 1);
	wait_for(a.opened, 1);
	assert_int_equal(km_link_client_send(a.c, "heartbeat", json_null()), 0);
	wait_for(s.messages, 1);
	assert_int_equal(a.closed, 0);
	client_end(&a);
	client_end(&b);
	server_end(&s);
	pki_free(&next);
}

static void plain_on_loopback_and_names_that_resolve(void **state)
{
	struct km_link_server_opts o = {.listen = "[::]:0"};
	struct server s = {.authenticate = true};
	struct client c = {0}, d = {0};
	struct km_errtext err;
	char url[64];

	(void)state;
	assert_int_equal(km_link_server_start(&s.s, base, &o, &server_cbs, &s, &err), 0);
	snprintf(url, sizeof(url), "ws://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&c, url, NULL);
	snprintf(url, sizeof(url), "ws://localhost:%u/ws", km_link_server_port(s.s));
	dial_with(&d, url, NULL);
	wait_for(s.opened, 2);
	wait_for(d.opened, 1);
	assert_string_equal(d.url, url);
	client_end(&c);
	client_end(&d);
	server_end(&s);
}

static void both_ends_know_the_bounds(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	assert_int_equal(km_link_client_send(c.c, "auth", json_null()), KM_ECLOSED);
	wait_for(c.opened, 1);
	wait_for(s.opened, 1);
	assert_int_equal(km_link_client_send(c.c, "auth", text_of_length(65536)), KM_ETOOBIG);
	assert_int_equal(km_link_client_send(c.c, "no good", json_null()), KM_EINVAL);
	assert_int_equal(km_link_client_send(c.c, "auth", text_of_length(65000)), 0);
	wait_for(s.messages, 1);
	assert_int_equal(json_string_length(s.data), 65000);
	assert_int_equal(km_link_server_send(s.s, 999, "config", json_null()), KM_ECLOSED);
	km_link_server_close(s.s, 999, "nobody", 0);
	km_link_server_authenticated(s.s, 999);
	client_end(&c);
	server_end(&s);
}

static void a_flood_from_the_main_loop_ends_in_full(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	int r = 0, sent = 0;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){.auth_timeout_ms = 60000});
	dial(&c, &s);
	wait_for(c.opened, 1);
	/* The server's main loop does not run meanwhile, so it stops reading. */
	while (r == 0 && sent < 100000)
		if ((r = km_link_client_send(c.c, "status", text_of_length(60000))) == 0)
			sent++;
	assert_int_equal(r, KM_EFULL);
	wait_for(s.messages, sent);
	r = km_link_client_send(c.c, "status", json_null());
	assert_int_equal(r, 0);
	wait_for(s.messages, sent + 1);
	assert_int_equal(c.closed, 0);
	client_end(&c);
	server_end(&s);
}

/* --- closing --- */

static void closing_says_why_after_what_was_sent(void **state)
{
	struct server s = {0};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(s.opened, 1);
	uint64_t id = s.last_id;
	assert_int_equal(km_link_server_send(s.s, id, "auth_error", text_of_length(300000)), 0);
	km_link_server_close(s.s, id, "bad API key", 0);
	assert_int_equal(km_link_server_send(s.s, id, "config", json_null()), KM_ECLOSED);
	wait_for(c.closed, 1);
	assert_int_equal(c.messages, 1);
	assert_string_equal(c.msg_type, "auth_error");
	assert_non_null(strstr(c.why, "1008 bad API key"));
	wait_for(s.closed, 1);
	assert_string_equal(s.why, "bad API key");
	/* and it comes back */
	wait_for(s.opened, 2);
	assert_int_not_equal(s.last_id, id);
	km_link_server_close(s.s, s.last_id, "quietly", 1);
	wait_for(c.closed, 2);
	wait_for(s.opened, 3);
	wait_for(c.opened, 3);
	assert_int_equal(s.closed, 1);
	client_end(&c);
	wait_for(s.closed, 2);
	assert_string_equal(s.why, "closed by the client: 1001 stopping");
	server_end(&s);
}

static void a_client_may_drop_and_come_back(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	km_link_client_settled(c.c);
	km_link_client_reconnect(c.c, "a revision is missing");
	assert_int_equal(km_link_client_send(c.c, "auth", json_null()), KM_ECLOSED);
	wait_for(c.closed, 1);
	assert_string_equal(c.why, "a revision is missing");
	wait_for(c.opened, 2);
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "a revision is missing"));
	client_end(&c);
	server_end(&s);
}

static void it_follows_a_server_that_restarts(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	char listen[32], url[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	uint16_t port = km_link_server_port(s.s);
	dial(&c, &s);
	wait_for(c.opened, 1);
	km_link_client_settled(c.c);
	server_end(&s);
	wait_for(c.closed, 3);
	assert_non_null(strstr(c.why, "127.0.0.1"));
	s.authenticate = true;
	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	serve_with(&s, (struct km_link_server_opts){.listen = listen});
	wait_for(c.opened, 2);
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", port);
	assert_string_equal(c.url, url);
	assert_int_equal(km_link_client_send(c.c, "auth", json_null()), 0);
	wait_for(s.messages, 1);
	client_end(&c);
	server_end(&s);
}

static void urls_are_tried_in_turn(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	struct km_errtext err;
	char good[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	snprintf(good, sizeof(good), "wss://localhost:%u", km_link_server_port(s.s));
	const char *urls[] = {"wss://127.0.0.1:1", "wss://name.invalid:3001", good};
	struct km_link_client_opts o = {urls, 3, "gateway", pki.pin, 1, 20};
	assert_int_equal(km_link_client_start(&c.c, base, &o, &client_cbs, &c, &err), 0);
	wait_for(c.closed, 1);
	wait_for(c.closed, 2);
	assert_non_null(strstr(c.why, "name.invalid"));
	wait_for(c.opened, 1);
	assert_string_equal(c.url, good);
	wait_for(s.opened, 1);
	assert_string_equal(s.type, "gateway");
	client_end(&c);
	server_end(&s);
}

static void a_client_can_be_freed_at_any_time(void **state)
{
	static const char *const urls[] = {
	    "wss://127.0.0.1:1", "wss://name.invalid:3001",
	    "wss://192.0.2.1:3001", /* RFC 5737: nobody answers */
	};
	struct server s = {0};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(urls); i++) {
		struct client c = {0};
		dial_with(&c, urls[i], pki.pin);
		client_end(&c);
	}
	serve_with(&s, (struct km_link_server_opts){0});
	for (int i = 0; i < 20; i++) {
		struct client c = {0};
		dial(&c, &s);
		if (i % 2)
			wait_for(c.opened, 1);
		client_end(&c);
	}
	server_end(&s);
}

static void two_hundred_clients(void **state)
{
	enum { N = 200 };
	struct server s = {.authenticate = true, .echo = true};
	struct client *c = calloc(N, sizeof(*c));

	(void)state;
	/* They are let in only when all have been dialled, which takes long under a sanitizer. */
	serve_with(&s, (struct km_link_server_opts){.max_unauthenticated_per_address = N,
						    .auth_timeout_ms = 60000});
	for (int i = 0; i < N; i++)
		dial(&c[i], &s);
	for (int i = 0; i < N; i++) {
		wait_for(c[i].opened, 1);
		assert_int_equal(km_link_client_send(c[i].c, "status", json_integer(i)), 0);
	}
	for (int i = 0; i < N; i++) {
		wait_for(c[i].messages, 1);
		assert_int_equal(json_integer_value(c[i].data), i);
	}
	assert_int_equal(s.messages, N);
	for (int i = 0; i < N; i++)
		client_end(&c[i]);
	wait_for(s.closed, s.opened);
	server_end(&s);
	free(c);
}

static void the_process_is_left_alone(void **state)
{
	struct sigaction before[NSIG], after;
	struct rlimit files, files_after;
	struct server s = {0};
	struct client c = {0};

	(void)state;
	getrlimit(RLIMIT_NOFILE, &files);
	for (int i = 1; i < NSIG; i++)
		if (sigaction(i, NULL, &before[i]))
			before[i].sa_handler = SIG_ERR;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	for (int i = 1; i < NSIG; i++)
		if (before[i].sa_handler != SIG_ERR && sigaction(i, NULL, &after) == 0)
			assert_ptr_equal(after.sa_handler, before[i].sa_handler);
	getrlimit(RLIMIT_NOFILE, &files_after);
	assert_int_equal(files.rlim_cur, files_after.rlim_cur);
	client_end(&c);
	server_end(&s);
}

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void nothing_stays_open(void **state)
{
	int before = 0;

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct server s = {.authenticate = true};
		struct client c = {0};
		struct raw r;
		serve_with(&s, (struct km_link_server_opts){0});
		assert_true(raw_open(&r, km_link_server_port(s.s)));
		dial(&c, &s);
		wait_for(s.opened, 2);
		server_end(&s); /* with both still there */
		raw_close(&r);
		client_end(&c);
		if (i == 0)
			before = count_fds();
	}
	assert_int_equal(count_fds(), before);
}

static void a_server_says_what_is_wrong_with_its_settings(void **state)
{
	static const char *const bad[] = {"",
					  "3001",
					  "127.0.0.1",
					  "127.0.0.1:",
					  "127.0.0.1:x",
					  "127.0.0.1:65536",
					  "localhost:3001",
					  "[::1:3001"};
	struct server s = {0}, t = {0};
	struct km_errtext err;
	char listen[32];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		struct km_link_server_opts o = {.listen = bad[i]};
		if (km_link_server_start(&s.s, base, &o, &server_cbs, &s, &err) != KM_EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_null(s.s);
	}
	serve_with(&s, (struct km_link_server_opts){0});
	snprintf(listen, sizeof(listen), "127.0.0.1:%u", km_link_server_port(s.s));
	struct km_link_server_opts o = {.listen = listen};
	assert_int_equal(km_link_server_start(&t.s, base, &o, &server_cbs, &t, &err), KM_EIO);
	assert_non_null(strstr(err.text, "in use"));
	o = (struct km_link_server_opts){.listen = "127.0.0.1:0", .cert_pem = "x", .key_pem = "y"};
	assert_int_equal(km_link_server_start(&t.s, base, &o, &server_cbs, &t, &err), KM_EINVAL);
	server_end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(messages_pass_both_ways),
	    cmocka_unit_test(a_long_message_comes_in_parts),
	    cmocka_unit_test(a_huge_message_is_one_at_a_time),
	    cmocka_unit_test(another_root_is_refused),
	    cmocka_unit_test(an_expired_certificate_is_refused),
	    cmocka_unit_test(a_new_certificate_is_for_new_connections),
	    cmocka_unit_test(plain_on_loopback_and_names_that_resolve),
	    cmocka_unit_test(both_ends_know_the_bounds),
	    cmocka_unit_test(a_flood_from_the_main_loop_ends_in_full),
	    cmocka_unit_test(closing_says_why_after_what_was_sent),
	    cmocka_unit_test(a_client_may_drop_and_come_back),
	    cmocka_unit_test(it_follows_a_server_that_restarts),
	    cmocka_unit_test(urls_are_tried_in_turn),
	    cmocka_unit_test(a_client_can_be_freed_at_any_time),
	    cmocka_unit_test(two_hundred_clients),
	    cmocka_unit_test(the_process_is_left_alone),
	    cmocka_unit_test(nothing_stays_open),
	    cmocka_unit_test(a_server_says_what_is_wrong_with_its_settings),
	};
	cmocka_set_test_filter(getenv("KM_TEST")); /* a pattern of names */
	return cmocka_run_group_tests_name("link", tests, setup, teardown);
}
