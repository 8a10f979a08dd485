/* SPDX-License-Identifier: MIT */
/* What the server of the link does with those who break its rules, or are slow. */
#include "libkm/base/metrics.h"
#include "tests/unit/link/harness.h"

static void what_is_no_link_is_answered_with_a_status(void **state)
{
	static const struct {
		const char *path;
		int status;
	} table[] = {
	    {"/ws?type=agent", 101},
	    {"/ws?type=gateway", 101},
	    {"/ws", 400},
	    {"/ws?type=", 400},
	    {"/ws?type=other", 400},
	    {"/ws?type=agentx", 400},
	    {"/", 404},
	    {"/wsx?type=agent", 404},
	    {"/ws/?type=agent", 404},
	    {"/%77s/../x?type=agent", 404},
	};
	struct server s = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){.auth_timeout_ms = 1000});
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
		int status = raw_upgrade(&r, table[i].path);
		if (status != table[i].status)
			fail_msg("%s gave %d", table[i].path, status);
		assert_null(strstr(r.answer, "permessage-deflate"));
		raw_close(&r);
	}
	static const char *const plain[] = {
	    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	    "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\n\r\n",
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(plain); i++) {
		assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
		assert_int_equal(raw_http(&r, plain[i]), i == 2 ? 400 : 404);
		raw_close(&r);
	}
	static const char *const odd[] = {
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
	    "websocket\r\n\r\n",
	    "\r\n\r\n\r\n",
	    "CONNECT x:1 HTTP/1.1\r\n\r\n",
	    "\x01\x02\x03\x04\r\n\r\n",
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(odd); i++) {
		assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
		assert_int_not_equal(raw_http(&r, odd[i]), 101);
		raw_close(&r);
	}
	wait_for(s.opened, 2);
	wait_for(s.closed, 2);
	server_end(&s);
}

static void old_tls_is_refused(void **state)
{
	struct server s = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_false(raw_connect(&r, km_link_server_port(s.s), TLS1_1_VERSION));
	raw_close(&r);
	assert_true(raw_connect(&r, km_link_server_port(s.s), TLS1_2_VERSION));
	raw_close(&r);
	server_end(&s);
}

static void assert_invalid(struct raw *r, const char *says)
{
	char buf[1024];

	assert_int_equal(raw_recv(r, buf, sizeof(buf)), RAW_FIN | RAW_TEXT);
	json_t *m = json_loads(buf, 0, NULL);
	assert_non_null(m);
	assert_string_equal(json_string_value(json_object_get(m, "type")), "error");
	json_t *d = json_object_get(m, "data");
	assert_string_equal(json_string_value(json_object_get(d, "code")), "INVALID_MESSAGE");
	const char *text = json_string_value(json_object_get(d, "message"));
	if (!strstr(text, says))
		fail_msg("'%s' does not say '%s'", text, says);
	json_decref(m);
}

#define GOOD "{\"type\":\"heartbeat\",\"data\":{\"timestamp\":1}}"

static void invalid_messages_are_answered_and_nothing_else(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	raw_text(&r, "{");
	assert_invalid(&r, "not JSON");
	raw_text(&r, "");
	assert_invalid(&r, "not JSON");
	raw_text(&r, "{\"data\":{}}");
	assert_invalid(&r, "type: missing");
	raw_text(&r, "{\"type\":\"a\",\"data\":{\"x\":1,\"x\":2}}");
	assert_invalid(&r, "duplicate");
	raw_text(&r, "{\"type\":\"a\",\"part\":1,\"parts\":2,\"data\":\"x\"}");
	assert_invalid(&r, "only control sends messages in parts");
	raw_text(&r, "{\"type\":\"\xff\xfe\"}");
	assert_invalid(&r, "not JSON");
	raw_send(&r, RAW_FIN | RAW_BINARY, GOOD, strlen(GOOD));
	assert_invalid(&r, "binary");
	char *deep = malloc(60001);
	memset(deep, '[', 60000);
	deep[60000] = '\0';
	raw_text(&r, deep);
	assert_invalid(&r, "depth");
	free(deep);
	raw_text(&r, GOOD);
	wait_for(s.messages, 1);
	assert_string_equal(s.msg_type, "heartbeat");
	assert_int_equal(s.closed, 0);
	/* who never says anything else is shown out */
	for (int i = 0; i < 40; i++)
		if (!raw_text(&r, "["))
			break;
	assert_int_equal(raw_close_status(&r), 1008);
	raw_close(&r);
	wait_for(s.closed, 1);
	assert_int_equal(s.messages, 1);
	server_end(&s);
}

static void fragments_are_joined(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	char buf[256];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	/* every byte of the message a frame, every byte of the frames a record */
	for (size_t i = 0; i < strlen(GOOD); i++) {
		uint8_t head[14];
		uint8_t first =
		    (uint8_t)((i ? RAW_CONT : RAW_TEXT) | (i + 1 == strlen(GOOD) ? RAW_FIN : 0));
		size_t n = raw_head(head, first, 1);
		for (size_t k = 0; k < n; k++)
			assert_true(raw_write(&r, head + k, 1));
		assert_true(raw_write(&r, GOOD + i, 1));
		if (i == 5) /* a control frame in between */
			assert_true(raw_send(&r, RAW_FIN | RAW_PING, "ping", 4));
	}
	assert_int_equal(raw_recv(&r, buf, sizeof(buf)), RAW_FIN | RAW_PONG);
	assert_string_equal(buf, "ping");
	wait_for(s.messages, 1);
	assert_int_equal(json_integer_value(json_object_get(s.data, "timestamp")), 1);
	/* a message whose fragments exceed the bound only together */
	char *part = malloc(30000);
	memset(part, ' ', 30000);
	for (int i = 0; i < 3; i++)
		raw_send(&r, i ? RAW_CONT : RAW_TEXT, part, 30000);
	free(part);
	assert_int_equal(raw_close_status(&r), 1009);
	raw_close(&r);
	wait_for(s.closed, 1);
	server_end(&s);
}

static void broken_framing_ends_that_connection_only(void **state)
{
	static const struct {
		uint8_t bytes[16];
		size_t n;
		int status; /* 0: any end will do */
	} bad[] = {
	    {{0x83, 0x80, 0, 0, 0, 0}, 6, 1002},      /* reserved opcode */
	    {{0xc1, 0x80, 0, 0, 0, 0}, 6, 1002},      /* reserved bit */
	    {{0x80, 0x80, 0, 0, 0, 0}, 6, 1002},      /* continues nothing */
	    {{0x09, 0x80, 0, 0, 0, 0}, 6, 1002},      /* fragmented ping */
	    {{0x89, 0xfe, 0, 200, 0, 0, 0, 0}, 8, 0}, /* long ping */
	    {{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 10, 0}, /* 2^64 */
	};
	struct server s = {.authenticate = true, .echo = true};
	struct client c = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		assert_true(raw_open(&r, km_link_server_port(s.s)));
		assert_true(raw_write(&r, bad[i].bytes, bad[i].n));
		int status = raw_close_status(&r);
		if (bad[i].status && status != bad[i].status)
			fail_msg("case %zu gave %d", i, status);
		raw_close(&r);
	}
	/* truncated: half a header, half a message, then gone */
	for (size_t n = 1; n < 20; n++) {
		uint8_t head[14];
		assert_true(raw_open(&r, km_link_server_port(s.s)));
		size_t h = raw_head(head, RAW_FIN | RAW_TEXT, strlen(GOOD));
		raw_write(&r, head, n < h ? n : h);
		if (n > h)
			raw_write(&r, GOOD, n - h);
		raw_close(&r);
	}
	wait_for(s.closed, (int)KM_ARRAY_LEN(bad) + 19);
	assert_int_equal(km_link_client_send(c.c, "status", json_null()), 0);
	wait_for(c.messages, 1);
	assert_int_equal(s.messages, 1);
	client_end(&c);
	server_end(&s);
}

static void ten_mebibytes_are_refused_unread(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	uint8_t head[14];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	/* told by the header alone */
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	raw_write(&r, head, raw_head(head, RAW_FIN | RAW_TEXT, 10u << 20));
	raw_write(&r, "{", 1);
	assert_int_equal(raw_close_status(&r), 1009);
	raw_close(&r);
	/* and to one who sends it all first */
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	char *all = malloc(10u << 20);
	memset(all, 'x', 10u << 20);
	raw_send(&r, RAW_FIN | RAW_TEXT, all, 10u << 20);
	free(all);
	assert_int_equal(raw_close_status(&r), 1009);
	raw_close(&r);
	wait_for(s.closed, 2);
	assert_non_null(strstr(s.why, "64 KiB"));
	assert_int_equal(s.messages, 0);
	server_end(&s);
}

static void who_does_not_authenticate_is_shown_out(void **state)
{
	struct server s = {0};
	struct raw silent, half, r;
	char b;

	(void)state;
	serve_with(&s,
		   (struct km_link_server_opts){.auth_timeout_ms = 1200, .max_unauthenticated = 3});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	assert_true(raw_connect(&silent, km_link_server_port(s.s), 0));
	assert_true(raw_connect(&half, km_link_server_port(s.s), 0));
	raw_write(&half, "GET /ws?type=agent HT", 21);
	/* a fourth is not let in */
	struct raw fourth;
	assert_false(raw_connect(&fourth, km_link_server_port(s.s), 0));
	raw_close(&fourth);
	assert_int_equal(raw_close_status(&r), 1008);
	assert_false(raw_read(&silent, &b, 1));
	assert_false(raw_read(&half, &b, 1));
	raw_close(&r);
	raw_close(&silent);
	raw_close(&half);
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "not authenticated in time"));
	/* there is room again, and who authenticates takes none of it and may stay */
	struct client c[5] = {0};
	s.authenticate = true;
	for (int i = 0; i < 5; i++) {
		dial(&c[i], &s);
		wait_for(c[i].opened, 1);
		wait_for(s.opened, 2 + i);
	}
	assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
	assert_false(raw_read(&r, &b, 1)); /* longer than the time limit */
	raw_close(&r);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(c[i].closed, 0);
		client_end(&c[i]);
	}
	server_end(&s);
}

static void one_address_does_not_take_all_places(void **state)
{
	static const char *const others[] = {"127.0.0.2", "::1"};
	struct server s = {0};
	struct raw r[16], more, member[3];
	struct km_metric *refused = km_metric(KM_METRIC_COUNTER, "kakuremichi_link_refused_total",
					      "", "Connections that a bound refused");
	int64_t before = refused->value;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){.listen = "[::]:0"});
	for (size_t i = 0; i < KM_ARRAY_LEN(r); i++)
		assert_true(raw_connect(&r[i], km_link_server_port(s.s), 0));
	assert_false(raw_connect(&more, km_link_server_port(s.s), 0));
	raw_close(&more);
	assert_int_equal(refused->value, before + 1);
	for (size_t i = 0; i < KM_ARRAY_LEN(others); i++) {
		assert_true(raw_connect_from(&more, others[i], km_link_server_port(s.s), 0));
		raw_close(&more);
	}
	/* in the one place that gets free there is room for all who authenticate */
	raw_close(&r[0]);
	s.authenticate = true;
	for (int i = 0; i < 3; i++) {
		bool in = false;
		for (int k = 0; k < 100 && !in; k++) { /* it is free a little later */
			in = raw_open(&member[i], km_link_server_port(s.s));
			if (!in)
				raw_close(&member[i]);
		}
		assert_true(in);
		wait_for(s.opened, i + 1);
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(member); i++)
		raw_close(&member[i]);
	for (size_t i = 1; i < KM_ARRAY_LEN(r); i++)
		raw_close(&r[i]);
	server_end(&s);
}

static void there_is_a_most_of_connections(void **state)
{
	struct server s = {.authenticate = true};
	struct raw a, b, c;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){.max_connections = 2});
	assert_true(raw_open(&a, km_link_server_port(s.s)));
	assert_true(raw_open(&b, km_link_server_port(s.s)));
	wait_for(s.opened, 2);
	assert_false(raw_connect(&c, km_link_server_port(s.s), 0));
	raw_close(&c);
	raw_close(&a);
	wait_for(s.closed, 1);
	bool in = false;
	for (int i = 0; i < 100 && !in; i++) { /* its descriptor is closed a little later */
		in = raw_open(&c, km_link_server_port(s.s));
		if (!in)
			raw_close(&c);
	}
	assert_true(in);
	raw_close(&b);
	raw_close(&c);
	server_end(&s);
}

static void a_slow_client_is_bounded(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	size_t sent = 0;
	int e = 0;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	wait_for(s.opened, 1);
	json_t *data = text_of_length(250000);
	while (e == 0 && sent < 64u << 20)
		if ((e = km_link_server_send(s.s, s.last_id, "config", json_incref(data))) == 0)
			sent += 250000;
	json_decref(data);
	assert_int_equal(e, KM_EFULL);
	assert_true(sent >= 15u << 20 && sent < 40u << 20); /* and what the kernel holds */
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "too slow"));
	raw_close(&r);
	server_end(&s);
}

static void a_slow_main_loop_stops_the_readers(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	char text[1024];
	int sent = 0;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	wait_for(s.opened, 1);
	snprintf(text, sizeof(text), "{\"type\":\"status\",\"data\":\"%0900d\"}", 1);
	fcntl(r.fd, F_SETFL, O_NONBLOCK);
	for (bool stuck = false; !stuck && sent < 200000;) {
		uint8_t frame[14 + sizeof(text)];
		size_t n = raw_head(frame, RAW_FIN | RAW_TEXT, strlen(text)), off = 0;
		memcpy(frame + n, text, strlen(text));
		n += strlen(text);
		while (off < n) {
			struct pollfd p = {r.fd, POLLOUT, 0};
			int w = SSL_write(r.ssl, frame + off, (int)(n - off));
			if (w > 0)
				off += (size_t)w;
			else if (poll(&p, 1, stuck ? WAIT_MS : 500) == 0) {
				assert_false(stuck);
				stuck = true; /* nobody reads: only now does our loop run */
				wait_for(s.messages, 1);
				while (event_base_loop(base, EVLOOP_NONBLOCK) == 0 &&
				       s.messages < sent)
					if (poll(&p, 1, 0) == 1)
						break;
			}
		}
		sent++;
		if (stuck)
			break;
	}
	assert_true(sent < 200000);
	wait_for(s.messages, sent);
	assert_int_equal(s.closed, 0);
	raw_close(&r);
	server_end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_no_link_is_answered_with_a_status),
	    cmocka_unit_test(old_tls_is_refused),
	    cmocka_unit_test(invalid_messages_are_answered_and_nothing_else),
	    cmocka_unit_test(fragments_are_joined),
	    cmocka_unit_test(broken_framing_ends_that_connection_only),
	    cmocka_unit_test(ten_mebibytes_are_refused_unread),
	    cmocka_unit_test(who_does_not_authenticate_is_shown_out),
	    cmocka_unit_test(one_address_does_not_take_all_places),
	    cmocka_unit_test(there_is_a_most_of_connections),
	    cmocka_unit_test(a_slow_client_is_bounded),
	    cmocka_unit_test(a_slow_main_loop_stops_the_readers),
	};
	cmocka_set_test_filter(getenv("KM_TEST")); /* a pattern of names */
	return cmocka_run_group_tests_name("link/strangers", tests, setup, teardown);
}
