/* SPDX-License-Identifier: MIT */
/* Frames between gateways: what each type needs, what a field may be, and every way to damage one.
 */
#include "gatewayd/mesh/codec.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the standard headers */
#include <cmocka.h>

#define PEM "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
#define FP "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static const struct mesh_msg good[] = {
    {.type = MESH_HELLO, .version = 1, .gateway = {1, 2, 3}},
    {.type = MESH_PING},
    {.type = MESH_ACK, .id = 7},
    {.type = MESH_CHALLENGE,
     .id = 0xfffffffe,
     .open = true,
     .ch = {CHALLENGE_ALPN_TLS, "a.test", "tok_en-", "tok_en-.Thumb"}},
    {.type = MESH_CHALLENGE,
     .id = 1,
     .open = true,
     .ch = {CHALLENGE_HTTP, "2001:db8::1", "t", "t.x"}},
    {.type = MESH_CHALLENGE, .id = 2, .ch = {.token = "t"}},
    {.type = MESH_CLAIM, .id = 3, .fact.domain = "*.a.test"},
    {.type = MESH_VERDICT, .id = 3, .granted = true},
    {.type = MESH_VERDICT, .id = 4},
    {.type = MESH_ANNOUNCE, .fact = {"a.test", true, FP, -1}},
    {.type = MESH_FAILED, .fact.domain = "a.test", .why = "n\xc3\xb6", .next_try_ms = INT64_MAX},
    {.type = MESH_FAILED, .fact.domain = "a.test", .why = ""},
    {.type = MESH_FETCH, .id = 5, .fact = {.domain = "a.test", .rsa = true}},
    {.type = MESH_GIVEN, .id = 5, .pem = PEM, .pem_len = sizeof(PEM) - 1},
    {.type = MESH_GIVEN, .id = 6},
};

/* A body of its own with room for one byte more, as mesh_decode wants it. */
static uint8_t *body_of(const struct mesh_msg *m, size_t *n)
{
	uint8_t *frame;
	size_t size;

	assert_int_equal(mesh_encode(m, &frame, &size), 0);
	assert_int_equal(mesh_decode_head(frame, n), 0);
	assert_int_equal(*n, size - MESH_HEAD);
	memmove(frame, frame + MESH_HEAD, *n);
	return frame;
}

static uint8_t *copy_of(const uint8_t *body, size_t n)
{
	uint8_t *copy = malloc(n + 1);

	assert_non_null(copy);
	memcpy(copy, body, n);
	return copy;
}

static int read_copy(struct mesh_msg *m, const uint8_t *body, size_t n)
{
	uint8_t *copy = copy_of(body, n);
	int rc = mesh_decode(m, copy, n);

	free(copy);
	return rc;
}

static void what_is_written_is_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(good); i++) {
		struct mesh_msg m, was = good[i];
		size_t n;
		uint8_t *body = body_of(&good[i], &n);

		assert_int_equal(mesh_decode(&m, body, n), 0);
		assert_true(!m.pem == !was.pem);
		if (m.pem)
			assert_string_equal(m.pem, was.pem);
		m.pem = was.pem = NULL;
		assert_memory_equal(&m, &was, sizeof(m));
		free(body);
	}
}

static void truncated(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(good); i++) {
		struct mesh_msg m;
		size_t n;
		uint8_t *body = body_of(&good[i], &n);

		for (size_t cut = 0; cut < n; cut++) {
			bool whole = good[i].type == MESH_GIVEN && cut == 10; /* it has none */

			assert_int_equal(read_copy(&m, body, cut), whole ? 0 : KM_EPROTO);
		}
		free(body);
	}
}

/* Some are other messages then; none may read beyond its end, and what is taken can be written. */
static void bits_flipped(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(good); i++) {
		size_t n;
		uint8_t *body = body_of(&good[i], &n);

		for (size_t bit = 0; bit < 8 * n; bit++) {
			uint8_t *copy = copy_of(body, n), *again;
			struct mesh_msg m;
			size_t size;

			copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
			if (mesh_decode(&m, copy, n) == 0) {
				assert_int_equal(mesh_encode(&m, &again, &size), 0);
				free(again);
			}
			free(copy);
		}
		free(body);
	}
}

/* An earlier version hears a later one. */
static void unknown_things_are_passed_over(void **state)
{
	uint8_t ack[] = {MESH_ACK, 99, 0, 0, 0, 2, 'h', 'i', 1, 0, 0, 0,
			 4,        0,  0, 0, 9, 0, 0,   0,   0, 0, 0};
	uint8_t later[] = {MESH_GIVEN + 1, 1, 2, 3, 0};
	struct mesh_msg m;

	(void)state;
	assert_int_equal(mesh_decode(&m, ack, 17), 0);
	assert_int_equal(m.id, 9);
	assert_int_equal(mesh_decode(&m, ack, 22), 0); /* an unknown empty field at the end */
	assert_int_equal(mesh_decode(&m, later, 4), KM_ENOTFOUND);
	later[0] = 0;
	assert_int_equal(mesh_decode(&m, later, 4), KM_ENOTFOUND);
	assert_int_equal(mesh_decode(&m, later, 0), KM_EPROTO);
}

static void twice_is_once_too_often(void **state)
{
	uint8_t ack[] = {MESH_ACK, 1, 0, 0, 0, 4, 0, 0, 0, 9, 1, 0, 0, 0, 4, 0, 0, 0, 9, 0};
	struct mesh_msg m;

	(void)state;
	assert_int_equal(mesh_decode(&m, ack, 19), KM_EPROTO);
	assert_int_equal(mesh_decode(&m, ack, 10), 0);
}

static void values(void **state)
{
	static const struct {
		struct mesh_msg m;
	} bad[] = {
	    {{.type = MESH_HELLO, .gateway = {1}}}, /* version 0 */
	    {{.type = MESH_CLAIM, .fact.domain = ""}},
	    {{.type = MESH_CLAIM, .fact.domain = "A.test"}},
	    {{.type = MESH_CLAIM, .fact.domain = "a test"}},
	    {{.type = MESH_CLAIM, .fact.domain = "../a"}},
	    {{.type = MESH_CHALLENGE, .ch = {.token = "a/b"}}},
	    {{.type = MESH_CHALLENGE, .ch = {.token = ""}}},
	    {{.type = MESH_CHALLENGE, .open = true, .ch = {.token = "t", .key_auth = "t.x"}}},
	    {{.type = MESH_CHALLENGE, .open = true, .ch = {.name = "a.test", .token = "t"}}},
	    {{.type = MESH_CHALLENGE,
	      .open = true,
	      .ch = {.name = "a.test", .token = "t", .key_auth = "t\r\nx"}}},
	    {{.type = MESH_ANNOUNCE, .fact = {"a.test", false, "short", 0}}},
	    {{.type = MESH_FAILED, .fact.domain = "a.test", .why = "a\nb"}},
	    {{.type = MESH_FAILED, .fact.domain = "a.test", .why = "\xff"}},
	    {{.type = MESH_GIVEN, .pem = "no pem", .pem_len = 6}},
	    {{.type = 0}},
	    {{.type = MESH_GIVEN + 1}},
	};
	uint8_t *frame;
	size_t n;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		assert_int_equal(mesh_encode(&bad[i].m, &frame, &n), KM_EINVAL);
		assert_null(frame);
	}
}

static void as_large_as_may_be(void **state)
{
	struct mesh_msg m = {.type = MESH_GIVEN, .id = 1}, got;
	uint8_t head[MESH_HEAD] = {0, 4, 0, 1}, *frame;
	char *pem = malloc(MESH_BODY_MAX + 1);
	size_t n;

	(void)state;
	assert_non_null(pem);
	memset(pem, 'A', MESH_BODY_MAX);
	memcpy(pem, PEM, 27);
	m.pem = pem;
	m.pem_len = MESH_BODY_MAX - 1 - 9 - 5; /* type, id, and the pem's head */
	assert_int_equal(mesh_encode(&m, &frame, &n), 0);
	assert_int_equal(n, MESH_HEAD + MESH_BODY_MAX);
	assert_int_equal(mesh_decode_head(frame, &n), 0);
	memmove(frame, frame + MESH_HEAD, n);
	assert_int_equal(mesh_decode(&got, frame, n), 0);
	assert_int_equal(strlen(got.pem), m.pem_len);
	free(frame);
	m.pem_len++;
	assert_int_equal(mesh_encode(&m, &frame, &n), KM_ETOOBIG);
	free(pem);
	assert_int_equal(mesh_decode_head(head, &n), KM_ETOOBIG);
	memset(head, 0, sizeof(head));
	assert_int_equal(mesh_decode_head(head, &n), KM_EPROTO);
	memset(head, 0xff, sizeof(head));
	assert_int_equal(mesh_decode_head(head, &n), KM_ETOOBIG);
}

/* Writes the corpus of tests/fuzz/fuzz_mesh.c: `test_mesh_codec --write`. */
static int write_corpus(void)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(good); i++) {
		size_t n;
		uint8_t *body = body_of(&good[i], &n);
		char path[64];

		snprintf(path, sizeof(path), "tests/fuzz/corpus/mesh/%02zu-type%d", i,
			 good[i].type);
		if (km_file_write(path, body, n, 0644))
			return 1;
		free(body);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_written_is_read),
	    cmocka_unit_test(truncated),
	    cmocka_unit_test(bits_flipped),
	    cmocka_unit_test(unknown_things_are_passed_over),
	    cmocka_unit_test(twice_is_once_too_often),
	    cmocka_unit_test(values),
	    cmocka_unit_test(as_large_as_may_be),
	};

	if (argc > 1 && !strcmp(argv[1], "--write"))
		return write_corpus();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
