/* SPDX-License-Identifier: MIT */
/* The record layer: RFC 8448's records, what a hostile client may send, and OpenSSL as the other side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/handover.h"
#include "gatewayd/edge/record_keys.h"
#include "gatewayd/edge/records.h"
#include "gatewayd/edge/secrets.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include "tests/unit/gatewayd/certify.h"
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define ROOM 70000

enum { CCS = 20, ALERT = 21, HANDSHAKE = 22, DATA = 23 };

/* RFC 8448 section 3. */
static const char client_secret[] = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
static const char server_secret[] = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
static const char client_data[] =
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f"
    "5a6292a2977014bd1e3deae63aeebb21694915e4";
static const char server_data[] =
    "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4b"
    "f2e5f0a21c0047c2abf332540dd032e167c2955d";
static const char client_alert[] = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
static const char server_alert[] = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

static const uint16_t suites[] = {0x1301, 0x1302, 0x1303};

/* Our side, and the keys of a client that says what it likes. */
struct peers {
	struct records *r;
	struct record_keys client; /* half[RECORD_READ]: what we write; [RECORD_WRITE]: what we read */
	struct km_buf in, out;
	uint8_t got[ROOM];
	size_t n;
};

static uint16_t variety; /* 0: RFC 8448's secrets */

static void peers_open_at(struct peers *p, uint16_t suite, uint64_t read_seq, uint64_t write_seq)
{
	uint8_t secret[2][RECORD_SECRET_MAX];
	size_t n = record_suite_secret(record_suite(suite));
	memset(p, 0, sizeof(*p));
	memset(secret, 7, sizeof(secret));
	assert_int_equal(km_unhex(secret[0], 32, client_secret), 0);
	assert_int_equal(km_unhex(secret[1], 32, server_secret), 0);
	for (int i = 0; i < 2; i++) {
		secret[i][3] ^= (uint8_t)variety;
		secret[i][4] ^= (uint8_t)(variety >> 8);
	}
	p->r = records_new(&(struct records_opts){suite, secret[0], secret[1], n, read_seq, write_seq});
	assert_non_null(p->r);
	p->client.suite = record_suite(suite);
	assert_true(record_keys_set(&p->client, RECORD_WRITE, secret[0]));
	assert_true(record_keys_set(&p->client, RECORD_READ, secret[1]));
	p->client.half[RECORD_WRITE].seq = read_seq;
	p->client.half[RECORD_READ].seq = write_seq;
	km_buf_init(&p->in, 1 << 20);
	km_buf_init(&p->out, 1 << 20);
}

static void peers_open(struct peers *p, uint16_t suite)
{
	peers_open_at(p, suite, 0, 0);
}

static void peers_close(struct peers *p)
{
	records_free(p->r);
	record_keys_wipe(&p->client);
	km_buf_free(&p->in);
	km_buf_free(&p->out);
}

/* The client seals content of this type with so much padding. */
static void say_padded(struct peers *p, uint8_t type, const void *content, size_t n, size_t padding)
{
	/* The type is the last byte that is not zero: with padding it is a part of what is sealed. */
	uint8_t *at, *inner = calloc(1, n + 1 + padding);
	size_t len = n + 1 + padding + RECORD_TAG;
	uint8_t header[RECORD_HEADER] = {DATA, 3, 3, (uint8_t)(len >> 8), (uint8_t)len};
	if (n)
		memcpy(inner, content, n);
	inner[n] = type;
	assert_int_equal(km_buf_reserve(&p->in, RECORD_HEADER + len, &at), 0);
	memcpy(at, header, sizeof(header));
	assert_true(record_seal(&p->client, header, inner, n + padding, padding ? 0 : type,
				at + RECORD_HEADER));
	km_buf_commit(&p->in, RECORD_HEADER + len);
	free(inner);
}

static void say(struct peers *p, uint8_t type, const void *content, size_t n)
{
	say_padded(p, type, content, n, 0);
}

/* All that comes out, in pieces of `room`. */
static enum records_got take(struct peers *p, size_t room)
{
	enum records_got got;
	size_t n;
	while ((got = records_open(p->r, &p->in, p->got + p->n, room, &n)) == RECORDS_DATA) {
		assert_in_range(n, 1, room);
		p->n += n;
	}
	assert_int_equal(n, 0);
	return got;
}

/* The client opens the record of ours at the head of p->out into p->got: its type. */
static uint8_t heard(struct peers *p)
{
	const uint8_t *h = km_buf_head(&p->out);
	uint8_t header[RECORD_HEADER];
	assert_true(p->out.len > RECORD_HEADER);
	memcpy(header, h, sizeof(header));
	size_t len = (size_t)header[3] << 8 | header[4], n = len - RECORD_TAG;
	assert_int_equal(header[0], DATA);
	assert_int_equal(header[1] << 8 | header[2], 0x0303);
	assert_true(p->out.len >= RECORD_HEADER + len);
	assert_true(record_open(&p->client, header, h + RECORD_HEADER, n, p->got, NULL));
	km_buf_consume(&p->out, RECORD_HEADER + len);
	p->n = n - 1;
	return p->got[n - 1];
}

static void heard_alert(struct peers *p, uint8_t level, uint8_t alert)
{
	assert_int_equal(records_close(p->r, &p->out), 0);
	assert_int_equal(heard(p), ALERT);
	assert_int_equal(p->n, 2);
	assert_int_equal(p->got[0], level);
	assert_int_equal(p->got[1], alert);
	assert_int_equal(p->out.len, 0);
	assert_int_equal(records_close(p->r, &p->out), 0);
	assert_int_equal(records_seal(p->r, &p->out, (const uint8_t *)"x", 1), KM_EPROTO);
	assert_int_equal(p->out.len, 0); /* once, and nothing behind it */
}

/* ---- vectors ---- */

static void add_hex(struct km_buf *b, const char *hex)
{
	uint8_t *at;
	size_t n = strlen(hex) / 2;
	assert_int_equal(km_buf_reserve(b, n, &at), 0);
	assert_int_equal(km_unhex(at, n, hex), 0);
	km_buf_commit(b, n);
}

static void is_hex(struct km_buf *b, const char *hex)
{
	char text[1024];
	assert_true(2 * b->len < sizeof(text));
	assert_string_equal(km_hex(km_buf_head(b), b->len, text), hex);
	km_buf_clear(b);
}

static void rfc_8448(void **state)
{
	struct peers p;
	char text[100];
	uint8_t data[50];
	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)i;
	peers_open_at(&p, 0x1301, 0, 1); /* the ticket was the first of the server's */
	assert_string_equal(km_hex(p.client.half[RECORD_WRITE].key, 16, text),
			    "17422dda596ed5d9acd890e3c63f5051");
	assert_string_equal(km_hex(p.client.half[RECORD_WRITE].iv, 12, text),
			    "5b78923dee08579033e523d9");
	assert_string_equal(km_hex(p.client.half[RECORD_READ].key, 16, text),
			    "9f02283b6c9c07efc26bb9f2ac92e356");
	assert_string_equal(km_hex(p.client.half[RECORD_READ].iv, 12, text),
			    "cf782b88dd83549aadf1e984");
	add_hex(&p.in, client_data);
	assert_int_equal(take(&p, ROOM), RECORDS_WAIT);
	assert_int_equal(p.n, sizeof(data));
	assert_memory_equal(p.got, data, sizeof(data));
	assert_int_equal(records_seal(p.r, &p.out, data, sizeof(data)), 0);
	is_hex(&p.out, server_data);
	add_hex(&p.in, client_alert);
	assert_int_equal(take(&p, ROOM), RECORDS_END);
	assert_int_equal(take(&p, ROOM), RECORDS_END);
	assert_int_equal(records_close(p.r, &p.out), 0);
	is_hex(&p.out, server_alert);
	peers_close(&p);
}

static void wrong_suites(void **state)
{
	static const uint8_t secret[RECORD_SECRET_MAX];
	static const struct {
		uint16_t suite;
		size_t len;
	} wrong[] = {{0x1301, 48}, {0x1302, 32}, {0x1303, 31}, {0x1304, 32}, {0xc02b, 32}, {0, 0}};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(wrong); i++)
		assert_null(records_new(
		    &(struct records_opts){wrong[i].suite, secret, secret, wrong[i].len, 0, 0}));
	records_free(NULL);
}

/* ---- cuts ---- */

/* Data of odd sizes, padding, KeyUpdates in pieces and empty records, then the end. */
static size_t mixture(struct peers *p, uint8_t *data)
{
	static const size_t sizes[] = {1, 2, 16, 17, 100, 255, 256, 300};
	static const uint8_t update[] = {24, 0, 0, 1, 0};
	size_t n = 0;
	for (size_t i = 0; i < KM_ARRAY_LEN(sizes); i++) {
		for (size_t k = 0; k < sizes[i]; k++)
			data[n + k] = (uint8_t)rand();
		say_padded(p, DATA, data + n, sizes[i], i % 3 ? i * 5 : 0);
		n += sizes[i];
		say(p, DATA, NULL, 0);
		if (i % 2) {
			say(p, HANDSHAKE, update, i);
			say(p, HANDSHAKE, update + i, sizeof(update) - i);
			i = i == 3 ? 4 : i;
			assert_true(record_keys_next(&p->client, RECORD_WRITE));
		}
		if (i == 4)
			break;
	}
	say(p, ALERT, "\1\0", 2);
	return n;
}

static void every_cut(void **state)
{
	static const size_t rooms[] = {1, 2, 3, 15, 16, 17, 99, 100, 101, 102, 1000, 20000};
	(void)state;
	for (size_t s = 0; s < KM_ARRAY_LEN(suites); s++)
		for (size_t i = 0; i < KM_ARRAY_LEN(rooms); i++)
			for (size_t step = 1; step < 200; step = step < 8 ? step + 1 : step * 3) {
				struct peers p;
				struct km_buf all;
				uint8_t data[2000];
				enum records_got got = RECORDS_WAIT;
				peers_open(&p, suites[s]);
				size_t n = mixture(&p, data);
				all = p.in;
				km_buf_init(&p.in, 1 << 20);
				while (all.len) {
					size_t now = all.len < step ? all.len : step;
					assert_int_equal(got, RECORDS_WAIT);
					assert_int_equal(km_buf_add(&p.in, km_buf_head(&all), now), 0);
					km_buf_consume(&all, now);
					got = take(&p, rooms[i]);
				}
				assert_int_equal(got, RECORDS_END);
				assert_int_equal(p.n, n);
				assert_memory_equal(p.got, data, n);
				km_buf_free(&all);
				peers_close(&p);
			}
}

/* Full records through rooms around their size. */
static void full_records(void **state)
{
	static uint8_t data[4 * RECORDS_PLAIN];
	static const size_t rooms[] = {RECORDS_PLAIN - 1, RECORDS_PLAIN, RECORDS_PLAIN + 1,
				       sizeof(data) - 1,  sizeof(data),  ROOM};
	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 31 >> 3);
	for (size_t i = 0; i < KM_ARRAY_LEN(rooms) * KM_ARRAY_LEN(suites); i++) {
		struct peers p;
		peers_open(&p, suites[i % KM_ARRAY_LEN(suites)]);
		for (int k = 0; k < 4; k++)
			say(&p, DATA, data + k * RECORDS_PLAIN, RECORDS_PLAIN);
		size_t room = rooms[i / KM_ARRAY_LEN(suites)], n;
		assert_true(records_ready(p.r, &p.in));
		/* The last take must not run over p.got. */
		while (p.n < sizeof(data)) {
			size_t now = ROOM - p.n < room ? ROOM - p.n : room;
			assert_int_equal(records_open(p.r, &p.in, p.got + p.n, now, &n), RECORDS_DATA);
			p.n += n;
		}
		assert_false(records_ready(p.r, &p.in));
		assert_int_equal(p.n, sizeof(data));
		assert_memory_equal(p.got, data, sizeof(data));
		peers_close(&p);
	}
}

/* ---- errors ---- */

struct bad {
	const char *what;
	uint8_t type;
	size_t n, padding;
	uint8_t content[8];
	uint8_t alert;      /* 0: none */
	uint8_t before;     /* bytes of a KeyUpdate that stand before it in a record of their own */
};

static const struct bad bads[] = {
    {"a ClientHello", HANDSHAKE, 5, 0, {1, 0, 0, 1, 0}, 10, 0},
    {"a ticket", HANDSHAKE, 5, 0, {4, 0, 0, 1, 0}, 10, 0},
    {"a certificate", HANDSHAKE, 1, 0, {11}, 10, 0},
    {"a Finished", HANDSHAKE, 4, 0, {20, 0, 0, 32}, 10, 0},
    {"an empty handshake record", HANDSHAKE, 0, 0, {0}, 10, 0},
    {"an empty one in the middle", HANDSHAKE, 0, 0, {0}, 10, 2},
    {"an empty one with padding", HANDSHAKE, 0, 9, {0}, 10, 0},
    {"a KeyUpdate that is too long", HANDSHAKE, 6, 0, {24, 0, 0, 2, 0, 0}, 50, 0},
    {"one that is very long", HANDSHAKE, 4, 0, {24, 1, 0, 1}, 50, 0},
    {"one that is empty", HANDSHAKE, 4, 0, {24, 0, 0, 0}, 50, 0},
    {"one of no known kind", HANDSHAKE, 5, 0, {24, 0, 0, 1, 2}, 47, 0},
    {"one with something behind it", HANDSHAKE, 6, 0, {24, 0, 0, 1, 0, 24}, 10, 0},
    {"half of one, then data", DATA, 3, 0, {1, 2, 3}, 10, 4},
    {"half of one, then nothing", DATA, 0, 0, {0}, 10, 1},
    {"half of one, then an alert", ALERT, 2, 0, {1, 0}, 10, 3},
    {"an empty alert", ALERT, 0, 0, {0}, 10, 0},
    {"half an alert", ALERT, 1, 0, {1}, 50, 0},
    {"two alerts", ALERT, 4, 0, {1, 90, 1, 0}, 50, 0},
    {"a fatal alert", ALERT, 2, 0, {2, 40}, 0, 0},
    {"a warning", ALERT, 2, 0, {1, 100}, 0, 0},
    {"change_cipher_spec inside", CCS, 1, 0, {1}, 10, 0},
    {"a heartbeat", 24, 3, 0, {1, 0, 0}, 10, 0},
    {"no type", 0, 0, 0, {0}, 10, 0},
    {"only zeros", 0, 0, 300, {0}, 10, 0},
    {"more than a record may hold", DATA, RECORDS_PLAIN + 1, 0, {0}, 22, 0},
    {"more by its padding", DATA, RECORDS_PLAIN, 1, {0}, 22, 0},
    {"much more by its padding", DATA, 1, RECORDS_PLAIN, {0}, 22, 0},
    {"a full record of zeros", 0, 0, RECORDS_PLAIN, {0}, 10, 0},
};

/* Whether there is room for it or not: opened elsewhere or where it lies. After data, which is told first. */
static void errors(void **state)
{
	static const size_t rooms[] = {2, 20, ROOM - 10};
	static const uint8_t update[] = {24, 0, 0, 1, 0};
	static uint8_t big[RECORDS_PLAIN + 1];
	struct peers p;
	size_t n;
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bads) * KM_ARRAY_LEN(rooms); i++) {
		const struct bad *b = &bads[i / KM_ARRAY_LEN(rooms)];
		size_t room = rooms[i % KM_ARRAY_LEN(rooms)];
		peers_open(&p, suites[i % KM_ARRAY_LEN(suites)]);
		say(&p, DATA, "ab", 2);
		if (b->before)
			say(&p, HANDSHAKE, update, b->before);
		say_padded(&p, b->type, b->n > 8 ? big : b->content, b->n, b->padding);
		say(&p, DATA, "c", 1);
		assert_int_equal(records_open(p.r, &p.in, p.got, room, &n), RECORDS_DATA);
		assert_int_equal(n, 2);
		for (int again = 0; again < 2; again++)
			if (records_open(p.r, &p.in, p.got, room, &n) != RECORDS_BROKEN || n)
				fail_msg("%s was taken", b->what);
		assert_null(p.in.data);
		if (b->alert)
			heard_alert(&p, 2, b->alert);
		assert_int_equal(records_close(p.r, &p.out), 0);
		assert_int_equal(p.out.len, 0);
		peers_close(&p);
	}
}

/* What is wrong before anything is opened. */
static void wrong_outside(void **state)
{
	static const struct {
		uint8_t header[RECORD_HEADER], alert;
		bool waits;
	} wrong[] = {
	    {{CCS, 3, 3, 0, 1}, 10, false},    {{ALERT, 3, 3, 0, 2}, 10, false},
	    {{HANDSHAKE, 3, 3, 0, 5}, 10, false}, {{24, 3, 3, 0, 19}, 10, false},
	    {{0x80, 3, 3, 0, 19}, 10, false},  {{0, 3, 3, 0, 40}, 10, false},
	    {{DATA, 3, 3, 0x41, 1}, 22, false}, {{DATA, 3, 3, 0xff, 0xff}, 22, false},
	    {{DATA, 3, 3, 0, 0}, 20, false},   {{DATA, 3, 3, 0, 16}, 20, false},
	    {{DATA, 3, 1, 0, 40}, 50, false},  {{DATA, 3, 4, 0, 40}, 50, false},
	    {{DATA, 0, 3, 0, 40}, 50, false},  {{DATA, 3, 3, 0, 17}, 0, true},    {{DATA, 3, 3, 0x41, 0}, 0, true},
	};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(wrong); i++) {
		struct peers p;
		peers_open(&p, 0x1301);
		assert_int_equal(km_buf_add(&p.in, wrong[i].header, 4), 0);
		assert_int_equal(take(&p, ROOM), RECORDS_WAIT);
		assert_int_equal(km_buf_add(&p.in, wrong[i].header + 4, 1), 0);
		assert_int_equal(take(&p, ROOM), wrong[i].waits ? RECORDS_WAIT : RECORDS_BROKEN);
		if (!wrong[i].waits)
			heard_alert(&p, 2, wrong[i].alert);
		peers_close(&p);
	}
}

static void every_bit_counts(void **state)
{
	(void)state;
	for (size_t s = 0; s < KM_ARRAY_LEN(suites); s++) {
		for (size_t bit = 0; bit < 8 * (RECORD_HEADER + 20 + RECORD_TAG + 1); bit++) {
			struct peers p;
			peers_open(&p, suites[s]);
			say(&p, DATA, "twenty bytes of data", 20);
			km_buf_head(&p.in)[bit / 8] ^= (uint8_t)(1 << bit % 8);
			enum records_got got = take(&p, bit % 2 ? ROOM : 5);
			assert_int_equal(p.n, 0);
			/* A longer length waits for more. */
			assert_true(got == RECORDS_BROKEN || (got == RECORDS_WAIT && bit / 8 >= 3));
			if (got == RECORDS_BROKEN && bit / 8 >= RECORD_HEADER)
				heard_alert(&p, 2, 20);
			peers_close(&p);
		}
	}
}

/* Left out, sent twice, in another order: nothing is taken for what it is not. */
static void order_counts(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		struct peers p;
		struct km_buf one, two;
		peers_open(&p, 0x1303);
		say(&p, DATA, "one", 3);
		one = p.in;
		km_buf_init(&p.in, 1 << 20);
		say(&p, DATA, "two", 3);
		two = p.in;
		km_buf_init(&p.in, 1 << 20);
		if (i == 1)
			assert_int_equal(km_buf_add(&p.in, km_buf_head(&one), one.len), 0);
		assert_int_equal(km_buf_add(&p.in, i == 1 ? km_buf_head(&one) : km_buf_head(&two), one.len),
				 0);
		if (i == 2)
			assert_int_equal(km_buf_add(&p.in, km_buf_head(&one), one.len), 0);
		assert_int_equal(take(&p, ROOM), RECORDS_BROKEN);
		assert_int_equal(p.n, i == 1 ? 3 : 0);
		heard_alert(&p, 2, 20);
		km_buf_free(&one);
		km_buf_free(&two);
		peers_close(&p);
	}
}

static void floods(void **state)
{
	static const struct {
		uint8_t type, n, content[5];
	} kinds[] = {{DATA, 0, {0}}, {HANDSHAKE, 5, {24, 0, 0, 1, 1}}, {ALERT, 2, {1, 90}}};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++)
		for (int between = 0; between < 2; between++) {
			struct peers p;
			peers_open(&p, 0x1301);
			for (int k = 0; k < 40; k++) {
				say(&p, kinds[i].type, kinds[i].content, kinds[i].n);
				if (kinds[i].type == HANDSHAKE)
					assert_true(record_keys_next(&p.client, RECORD_WRITE));
				if (between && k == 20)
					say(&p, DATA, "x", 1);
			}
			assert_int_equal(take(&p, ROOM), between ? RECORDS_WAIT : RECORDS_BROKEN);
			assert_int_equal(p.n, between);
			if (!between)
				heard_alert(&p, 2, 10);
			peers_close(&p);
		}
}

/* ---- KeyUpdate ---- */

static void key_updates(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2 * KM_ARRAY_LEN(suites); i++) {
		const uint8_t update[] = {24, 0, 0, 1, i % 2};
		struct peers p;
		peers_open(&p, suites[i / 2]);
		for (int k = 0; k < 3; k++) { /* asked several times: answered once */
			say(&p, HANDSHAKE, update, sizeof(update));
			assert_true(record_keys_next(&p.client, RECORD_WRITE));
		}
		say(&p, DATA, "after", 5);
		assert_int_equal(take(&p, ROOM), RECORDS_WAIT);
		assert_int_equal(p.n, 5);
		for (int k = 0; k < 2; k++) {
			assert_int_equal(records_seal(p.r, &p.out, (const uint8_t *)"answer", 6), 0);
			if (i % 2 && !k) {
				assert_int_equal(heard(&p), HANDSHAKE);
				assert_memory_equal(p.got, "\x18\0\0\1\0", 5);
				assert_true(record_keys_next(&p.client, RECORD_READ));
			}
			assert_int_equal(heard(&p), DATA);
			assert_memory_equal(p.got, "answer", 6);
			assert_int_equal(p.out.len, 0);
		}
		/* Under the key before: not taken. */
		peers_close(&p);
	}
}

static void old_keys_are_gone(void **state)
{
	static const uint8_t update[] = {24, 0, 0, 1, 0};
	struct peers p;
	(void)state;
	peers_open(&p, 0x1301);
	say(&p, HANDSHAKE, update, sizeof(update));
	say(&p, DATA, "x", 1);
	assert_int_equal(take(&p, ROOM), RECORDS_BROKEN);
	assert_int_equal(p.n, 0);
	heard_alert(&p, 2, 20);
	peers_close(&p);
}

static void limits(void **state)
{
	struct peers p;
	(void)state;
	/* Our key is changed when it has protected enough, and the client is asked for hers. */
	for (int read = 0; read < 2; read++) {
		peers_open_at(&p, 0x1302, read ? RECORDS_REKEY - 1 : 0, read ? 0 : RECORDS_REKEY - 1);
		assert_int_equal(records_seal(p.r, &p.out, (const uint8_t *)"a", 1), 0);
		assert_int_equal(heard(&p), DATA);
		say(&p, DATA, "b", 1);
		assert_int_equal(take(&p, ROOM), RECORDS_WAIT);
		assert_int_equal(records_seal(p.r, &p.out, (const uint8_t *)"c", 1), 0);
		assert_int_equal(heard(&p), HANDSHAKE);
		assert_int_equal(p.got[4], read);
		assert_true(record_keys_next(&p.client, RECORD_READ));
		assert_int_equal(heard(&p), DATA);
		/* Asked once. */
		assert_int_equal(records_seal(p.r, &p.out, (const uint8_t *)"d", 1), 0);
		assert_int_equal(heard(&p), DATA);
		peers_close(&p);
	}
	/* The last sequence number is never used. */
	peers_open_at(&p, 0x1301, UINT64_MAX - 1, UINT64_MAX);
	say(&p, DATA, "x", 1);
	assert_int_equal(take(&p, ROOM), RECORDS_WAIT);
	assert_int_equal(p.n, 1);
	assert_int_equal(records_seal(p.r, &p.out, (const uint8_t *)"x", 1), KM_EPROTO);
	assert_int_equal(p.out.len, 0);
	uint8_t record[RECORD_HEADER + 18] = {DATA, 3, 3, 0, 18};
	assert_int_equal(km_buf_add(&p.in, record, sizeof(record)), 0);
	assert_int_equal(take(&p, ROOM), RECORDS_BROKEN);
	peers_close(&p);
}

/* Its expanded keys are not those of a moment ago: only ours shall be kept. */
static void client_forgets(struct peers *p)
{
	struct record_keys k = p->client;
	k.ciphers = NULL;
	record_keys_wipe(&p->client);
	p->client = k;
}

/* More connections than a thread keeps expanded keys for, in turns and at random. */
static void many_connections(void **state)
{
	enum { MANY = 600 };
	struct peers *p = calloc(MANY, sizeof(*p));
	(void)state;
	for (variety = 1; variety <= MANY; variety++)
		peers_open(&p[variety - 1], suites[variety % 3]);
	for (int i = 0; i < 6 * MANY; i++) {
		struct peers *q = &p[i < 2 * MANY ? i % MANY : rand() % MANY];
		q->n = 0;
		say(q, DATA, &i, sizeof(i));
		client_forgets(q);
		assert_int_equal(take(q, ROOM), RECORDS_WAIT);
		assert_memory_equal(q->got, &i, sizeof(i));
		assert_int_equal(records_seal(q->r, &q->out, (const uint8_t *)&i, sizeof(i)), 0);
		assert_int_equal(heard(q), DATA);
		assert_memory_equal(q->got, &i, sizeof(i));
		client_forgets(q);
		if (i % 7 == 0) {
			peers_close(q);
			variety++;
			peers_open(q, suites[rand() % 3]);
		}
	}
	variety = 0;
	for (int i = 0; i < MANY; i++)
		peers_close(&p[i]);
	free(p);
}

/* ---- what is not gone ---- */

static void unsent(void **state)
{
	static const struct {
		size_t n, left, unsent;
	} cases[] = {
	    {1, 0, 0},
	    {1, 23, 1},
	    {1, 1, 1},
	    {0, 10, 0},
	    {16384, 16406, 16384},
	    {16384, 1, 16384},
	    {16384, 20000, 16384}, /* a KeyUpdate before it */
	    {16385, 23, 1},
	    {16385, 24, 16385},
	    {65536, 4 * 16406, 65536},
	    {65536, 4 * 16406 - 1, 65536},
	    {65536, 3 * 16406, 49152},
	    {65536, 3 * 16406 + 1, 65536},
	    {65536, 16406, 16384},
	    {40000, 40000 - 32768 + 22 + 16406, 40000 - 16384},
	    {40000, 40000 - 32768 + 22, 40000 - 32768},
	};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++)
		assert_int_equal(records_unsent(cases[i].n, cases[i].left), cases[i].unsent);
}

/* What is asked of the socket: never a part of the record behind. */
static void wants(void **state)
{
	static const uint8_t head[] = {23, 3, 3, 0x40, 17}; /* of a full one */
	static uint8_t full[RECORDS_PLAIN];
	const size_t most = 69632;
	struct peers p;
	(void)state;
	peers_open(&p, 0x1301);
	assert_int_equal(records_want(p.r, &p.in, most), 16384);
	assert_int_equal(km_buf_add(&p.in, head, 4), 0);
	assert_int_equal(records_want(p.r, &p.in, most), 16380);
	/* Who has sent but a head gets no large buffer for it. */
	assert_int_equal(km_buf_add(&p.in, head + 4, 1), 0);
	assert_int_equal(records_want(p.r, &p.in, most), RECORDS_FULL - 5);
	km_buf_clear(&p.in);
	say(&p, DATA, full, sizeof(full));
	assert_int_equal(take(&p, 1000), RECORDS_WAIT);
	assert_int_equal(p.n, sizeof(full));
	assert_int_equal(records_want(p.r, &p.in, most), 4 * RECORDS_FULL);
	say(&p, DATA, full, sizeof(full));
	p.in.len -= 10;
	assert_int_equal(records_want(p.r, &p.in, most), 3 * RECORDS_FULL + 10);
	p.in.len += 10;
	p.n = 0;
	assert_int_equal(take(&p, ROOM), RECORDS_WAIT);
	say(&p, DATA, "small", 5);
	assert_int_equal(take(&p, ROOM - p.n), RECORDS_WAIT);
	assert_int_equal(records_want(p.r, &p.in, most), 16384);
	peers_close(&p);
}

static void no_room(void **state)
{
	static const uint8_t data[40000];
	struct peers p;
	(void)state;
	peers_open(&p, 0x1301);
	km_buf_init(&p.out, sizeof(data));
	assert_int_equal(records_seal(p.r, &p.out, data, sizeof(data)), KM_ETOOBIG);
	assert_int_equal(p.out.len, 0);
	assert_int_equal(records_seal(p.r, &p.out, data, 100), 0); /* nothing was lost */
	assert_int_equal(heard(&p), DATA);
	peers_close(&p);
}

/* ---- OpenSSL at the other end ---- */

static SSL_CTX *server_ctx(void)
{
	SSL_CTX *ctx = SSL_CTX_new_ex(NULL, SECRETS_PROPERTIES, TLS_server_method());
	certify(ctx);
	assert_true(secrets_load() && handover_use(ctx));
	return ctx;
}

/* A client of OpenSSL's, whose server gives up after the handshake. */
struct met {
	SSL *c, *s;
	BIO *theirs; /* what the client reads and writes, from our side */
	struct records *r;
	struct km_buf in, out;
};

static void meet(struct met *m, SSL_CTX *srv, SSL_CTX *cli)
{
	BIO *a, *b;
	int ours = 0, its = 0;
	m->c = SSL_new(cli);
	m->s = SSL_new(srv);
	assert_int_equal(BIO_new_bio_pair(&a, 1 << 18, &b, 1 << 18), 1);
	SSL_set_bio(m->c, a, a);
	BIO_up_ref(b);
	SSL_set_bio(m->s, b, b);
	m->theirs = b;
	SSL_set_connect_state(m->c);
	SSL_set_accept_state(m->s);
	km_buf_init(&m->in, 1 << 20);
	km_buf_init(&m->out, 1 << 20);
	while (its != 1 || ours != 1) {
		its = SSL_do_handshake(m->c);
		handover_watch(m->s);
		ours = SSL_do_handshake(m->s);
		handover_watched();
	}
	m->r = handover_records(m->s);
}

static void part(struct met *m)
{
	SSL_free(m->c);
	SSL_free(m->s);
	BIO_free(m->theirs);
	records_free(m->r);
	km_buf_free(&m->in);
	km_buf_free(&m->out);
}

static void raw_in(struct met *m)
{
	uint8_t *at;
	int n;
	while (assert_int_equal(km_buf_reserve(&m->in, 1000, &at), 0),
	       (n = BIO_read(m->theirs, at, 1 + rand() % 1000)) > 0)
		km_buf_commit(&m->in, (size_t)n);
}

static void raw_out(struct met *m)
{
	while (m->out.len) {
		int n = BIO_write(m->theirs, km_buf_head(&m->out), (int)m->out.len);
		assert_true(n > 0);
		km_buf_consume(&m->out, (size_t)n);
	}
}

static void converse(struct met *m)
{
	static uint8_t said[60000], got[60000];
	size_t now, n = (size_t)(1 + rand() % (rand() % 2 ? 60000 : 300)), at = 0;
	for (size_t i = 0; i < n; i++)
		said[i] = (uint8_t)rand();
	if (rand() % 4 == 0)
		assert_int_equal(SSL_key_update(m->c, rand() % 2 ? SSL_KEY_UPDATE_REQUESTED
								 : SSL_KEY_UPDATE_NOT_REQUESTED),
				 1);
	assert_int_equal(SSL_write(m->c, said, (int)n), (int)n);
	raw_in(m);
	while (at < n) {
		assert_int_equal(records_open(m->r, &m->in, got + at,
					      (size_t)(1 + rand()) % (sizeof(got) - at) + 1, &now),
				 RECORDS_DATA);
		at += now;
	}
	assert_int_equal(at, n);
	assert_memory_equal(got, said, n);
	assert_int_equal(records_seal(m->r, &m->out, said, n), 0);
	raw_out(m);
	for (at = 0; at < n; at += now)
		assert_int_equal(SSL_read_ex(m->c, got + at, sizeof(got) - at, &now), 1);
	assert_int_equal(at, n);
	assert_memory_equal(got, said, n);
}

static void openssl_at_the_other_end(void **state)
{
	static const char *const names[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
					    "TLS_CHACHA20_POLY1305_SHA256"};
	SSL_CTX *srv = server_ctx(), *cli = SSL_CTX_new(TLS_client_method());
	uint8_t byte;
	size_t n;
	(void)state;
	for (unsigned i = 0; i < 12; i++) {
		struct met m;
		assert_int_equal(SSL_CTX_set_ciphersuites(cli, names[i % 3]), 1);
		SSL_CTX_set_num_tickets(srv, i / 3); /* 0 to 3 records before ours */
		meet(&m, srv, cli);
		assert_non_null(m.r);
		assert_null(handover_records(m.s)); /* the secrets are gone */
		for (int k = 0; k < 40; k++)
			converse(&m);
		if (i % 2) { /* who says goodbye first */
			assert_int_equal(SSL_shutdown(m.c), 0);
			raw_in(&m);
			assert_int_equal(records_open(m.r, &m.in, &byte, 1, &n), RECORDS_END);
		}
		assert_int_equal(records_close(m.r, &m.out), 0);
		raw_out(&m);
		assert_int_equal(SSL_read_ex(m.c, &byte, 1, &n), 0);
		assert_int_equal(SSL_get_error(m.c, 0), SSL_ERROR_ZERO_RETURN);
		part(&m);
	}
	SSL_CTX_free(srv);
	SSL_CTX_free(cli);
}

/* What OpenSSL must keep. */
static void left_to_openssl(void **state)
{
	SSL_CTX *srv = server_ctx(), *cli = SSL_CTX_new(TLS_client_method());
	struct met m;
	(void)state;
	assert_int_equal(SSL_CTX_set_tlsext_max_fragment_length(cli, TLSEXT_max_fragment_length_512), 1);
	meet(&m, srv, cli);
	assert_int_equal(SSL_version(m.s), TLS1_3_VERSION);
	assert_null(m.r);
	part(&m);
	assert_int_equal(SSL_CTX_set_tlsext_max_fragment_length(cli, 0), 1);
	SSL_CTX_set_max_proto_version(cli, TLS1_2_VERSION);
	meet(&m, srv, cli);
	assert_null(m.r);
	part(&m);
	SSL_CTX_free(srv);
	SSL_CTX_free(cli);
}

static int thread_end(void **state)
{
	(void)state;
	records_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(rfc_8448),		cmocka_unit_test(wrong_suites),
	    cmocka_unit_test(every_cut),	cmocka_unit_test(full_records),
	    cmocka_unit_test(errors),		cmocka_unit_test(wrong_outside),
	    cmocka_unit_test(every_bit_counts), cmocka_unit_test(order_counts),
	    cmocka_unit_test(floods),		cmocka_unit_test(key_updates),
	    cmocka_unit_test(old_keys_are_gone), cmocka_unit_test(limits),
	    cmocka_unit_test(many_connections), cmocka_unit_test(unsent), cmocka_unit_test(wants),
	    cmocka_unit_test(no_room),		cmocka_unit_test(openssl_at_the_other_end),
	    cmocka_unit_test(left_to_openssl),
	};
	return cmocka_run_group_tests(tests, NULL, thread_end);
}
