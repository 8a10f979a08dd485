/* SPDX-License-Identifier: MIT */
/* One direction of a TLS 1.3 connection: its traffic secret, and the keys that follow from it (RFC
 * 8446 section 7). The expanded keys, which are twenty times as large, are kept for the connections
 * of a thread that have spoken last. For records.c. */
#ifndef GATEWAYD_EDGE_RECORD_KEYS_H
#define GATEWAYD_EDGE_RECORD_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_SECRET_MAX 48
#define RECORD_TAG 16
#define RECORD_HEADER 5

enum record_way { RECORD_READ, RECORD_WRITE };

struct record_suite;
/* By its number in the ServerHello: TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384,
 * TLS_CHACHA20_POLY1305_SHA256. NULL: another one, or OpenSSL has it not. Any thread. */
const struct record_suite *record_suite(uint16_t id);
/* Bytes of its secrets. */
size_t record_suite_secret(const struct record_suite *s);

struct record_ciphers; /* a pair of expanded keys */

/* Both directions. Never moves in memory while it is used. */
struct record_keys {
	const struct record_suite *suite;
	struct record_ciphers *ciphers; /* NULL: not at hand */
	struct record_half {
		uint8_t secret[RECORD_SECRET_MAX], key[32], iv[12];
		uint64_t seq; /* of the next record */
	} half[2];
};

/* Key and iv of the secret; seq stays. False: OpenSSL failed. */
bool record_keys_set(struct record_keys *k, enum record_way way, const uint8_t *secret);
/* The next secret after a KeyUpdate, its key and iv; seq begins at 0 again. False: OpenSSL failed;
 * then nothing can be protected this way any more. */
bool record_keys_next(struct record_keys *k, enum record_way way);
/* Gives back and overwrites everything. */
void record_keys_wipe(struct record_keys *k);

/* Opens n bytes at `in`, with the tag behind them, into `out` (n bytes; the same place or another,
 * not overlapping) and, where `last` is not NULL, the last one of them there instead. Counts the
 * record. False: it is not what the other side has sealed (or no memory); out is to be forgotten.
 */
bool record_open(struct record_keys *k, const uint8_t header[static RECORD_HEADER],
		 const uint8_t *in, size_t n, uint8_t *out, uint8_t *last)
    __attribute__((warn_unused_result));
/* Seals n bytes and the type behind them into out (n + 1 + RECORD_TAG bytes; not overlapping).
 * Counts the record. False: OpenSSL failed, or no memory. */
bool record_seal(struct record_keys *k, const uint8_t header[static RECORD_HEADER],
		 const uint8_t *in, size_t n, uint8_t type, uint8_t *out)
    __attribute__((warn_unused_result));

/* Before a thread that has used these ends, when its connections are gone. */
void record_thread_end(void);

#endif
