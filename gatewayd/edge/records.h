/* SPDX-License-Identifier: MIT */
/* The record layer of a TLS 1.3 server once the handshake is done (RFC 8446 section 5), without the
 * rest of TLS: application data, KeyUpdate, alerts. Everything else that a client may send is an
 * error. Sans-I/O; a connection's state is a few hundred bytes, and its expanded keys are its
 * thread's (record_keys.h): it is to be used on one thread. */
#ifndef GATEWAYD_EDGE_RECORDS_H
#define GATEWAYD_EDGE_RECORDS_H

#include "libkm/base/buf.h"

#define RECORDS_PLAIN 16384               /* application data of a full record */
#define RECORDS_FULL (RECORDS_PLAIN + 22) /* what it becomes: header, type and tag */
#define RECORDS_REKEY                                                                              \
	(UINT64_C(1) << 24) /* records under one key, then it is changed (section 5.5) */
#define RECORDS_IDLE 32     /* records without application data that may follow each other */
#define RECORDS_EXTRA 64    /* a KeyUpdate or an alert of ours fits in */

struct records;

struct records_opts {
	uint16_t suite; /* as in the ServerHello */
	/* client_ and server_application_traffic_secret_N, as long as the suite's digest. */
	const uint8_t *read_secret, *write_secret;
	size_t secret_len;
	uint64_t read_seq, write_seq; /* of the first record each way */
};
/* Copies the secrets. NULL: not a suite of TLS 1.3 that OpenSSL has, or secrets of another length;
 * or no memory. */
struct records *records_new(const struct records_opts *o);
/* Overwrites it. Accepts NULL. */
void records_free(struct records *r);

enum records_got {
	RECORDS_DATA,   /* *n bytes */
	RECORDS_WAIT,   /* what is in hand is not a whole record */
	RECORDS_END,    /* close_notify; what came behind it does not count */
	RECORDS_BROKEN, /* an alert of the client's, or an error of its own: records_close has the
			   alert */
};
/* Opens what has come (`in`, changed in place and consumed) into out, at most `room` bytes, room >
 * 0: as many records as are whole and fit. Of one that does not fit the rest stays opened in `in`,
 * which the caller must leave alone but for appending. After an end or an error it is told again
 * each time, once the data before it has been taken. */
enum records_got records_open(struct records *r, struct km_buf *in, uint8_t *out, size_t room,
			      size_t *n);
/* How much is worth asking of the socket when records_open waits: of full records, as many as fit
 * in `most` bytes (at least RECORDS_FULL + 256) together with what is in hand, and not a part of
 * the next, once one has come; small ones say nothing about what comes. */
size_t records_want(const struct records *r, const struct km_buf *in, size_t most);
/* Whether records_open would have something to say without more bytes. */
bool records_ready(const struct records *r, const struct km_buf *in);

/* Seals n bytes behind what is in out, as full records and what is left; before them the KeyUpdate
 * that is due: an answer to the client's, or because a key has protected RECORDS_REKEY records.
 * KM_ENOMEM, KM_ETOOBIG: nothing has happened. KM_EPROTO: sequence numbers have run out, OpenSSL
 * has failed, or the last alert is sealed; the connection must end. */
int records_seal(struct records *r, struct km_buf *out, const uint8_t *p, size_t n)
    __attribute__((warn_unused_result));
/* Of n bytes that records_seal has put at the end of a buffer: how many are in records that are not
 * wholly gone when `left` bytes of the buffer have not. */
size_t records_unsent(size_t n, size_t left);
/* Seals the last alert: that of the error, else close_notify. A client that has sent an alert of
 * its own gets none. Errors as of records_seal. */
int records_close(struct records *r, struct km_buf *out) __attribute__((warn_unused_result));

/* Before a thread that has used these ends, when its connections are gone. */
void records_thread_end(void);

#endif
