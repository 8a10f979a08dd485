/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/records.h"
#include "gatewayd/edge/record_keys.h"
#include "libkm/base/err.h"
#include <stdlib.h>
#include <string.h>

#define CIPHERTEXT_MOST (RECORDS_PLAIN + 256) /* section 5.2 */
#define KEY_UPDATE_LEN 5

enum type { CHANGE_CIPHER_SPEC = 20, ALERT = 21, HANDSHAKE = 22, APPLICATION_DATA = 23 };
enum alert {
	CLOSE_NOTIFY = 0,
	UNEXPECTED_MESSAGE = 10,
	BAD_RECORD_MAC = 20,
	RECORD_OVERFLOW = 22,
	ILLEGAL_PARAMETER = 47,
	DECODE_ERROR = 50,
	INTERNAL_ERROR = 80,
	USER_CANCELED = 90,
};
enum { MESSAGE_KEY_UPDATE = 24 };

struct records {
	struct record_keys keys;
	enum records_got over; /* RECORDS_END, RECORDS_BROKEN; else it goes on */
	uint8_t alert; /* ours, with RECORDS_BROKEN; CLOSE_NOTIFY: the client has sent one */
	uint8_t idle;  /* records without application data, one after another */
	bool answer;   /* the client asks for a new key of ours */
	bool asked;    /* we have asked for one of the client's */
	bool closed;   /* our last alert is sealed */
	uint8_t message[KEY_UPDATE_LEN], message_n; /* a handshake message that has begun */
	uint16_t plain,
	    behind;    /* at the head of the input: opened bytes, and those to drop behind them */
	uint16_t last; /* bytes of the last record */
};

struct records *records_new(const struct records_opts *o)
{
	const struct record_suite *suite = record_suite(o->suite);
	if (!suite || o->secret_len != record_suite_secret(suite))
		return NULL;
	struct records *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->over = RECORDS_WAIT;
	r->keys.suite = suite;
	r->keys.half[RECORD_READ].seq = o->read_seq;
	r->keys.half[RECORD_WRITE].seq = o->write_seq;
	if (record_keys_set(&r->keys, RECORD_READ, o->read_secret) &&
	    record_keys_set(&r->keys, RECORD_WRITE, o->write_secret))
		return r;
	records_free(r);
	return NULL;
}

void records_free(struct records *r)
{
	if (!r)
		return;
	record_keys_wipe(&r->keys);
	free(r);
}

void records_thread_end(void)
{
	record_thread_end();
}

/* ---- opening ---- */

static void broken(struct records *r, enum alert alert)
{
	r->over = RECORDS_BROKEN;
	r->alert = alert;
}

static uint16_t length_of(const uint8_t *header)
{
	return (uint16_t)(header[3] << 8 | header[4]);
}

/* The bytes of the record at the head of the input; 0: not whole, or an error. */
static size_t record_whole(struct records *r, const struct km_buf *in)
{
	const uint8_t *h = km_buf_head(in);
	if (in->len < RECORD_HEADER)
		return 0;
	size_t n = length_of(h);
	if (h[0] != APPLICATION_DATA)
		broken(r, UNEXPECTED_MESSAGE);
	else if (h[1] != 3 || h[2] != 3)
		broken(r, DECODE_ERROR); /* always 0x0303 (section 5.2) */
	else if (n > CIPHERTEXT_MOST)
		broken(r, RECORD_OVERFLOW);
	else if (n < RECORD_TAG + 1)
		broken(r, BAD_RECORD_MAC);
	else if (in->len - RECORD_HEADER >= n)
		return RECORD_HEADER + n;
	return 0;
}

static void alert_in(struct records *r, const uint8_t *p, size_t n)
{
	if (!n)
		broken(r, UNEXPECTED_MESSAGE); /* section 5.1 */
	else if (n != 2)
		broken(r, DECODE_ERROR);
	else if (p[1] == CLOSE_NOTIFY)
		r->over = RECORDS_END;
	else if (p[1] != USER_CANCELED) /* close_notify follows (section 6.1) */
		broken(r, CLOSE_NOTIFY);
}

static void key_update(struct records *r)
{
	uint8_t request = r->message[4];
	if (request > 1)
		broken(r, ILLEGAL_PARAMETER);
	else if (!record_keys_next(&r->keys, RECORD_READ))
		broken(r, INTERNAL_ERROR);
	r->answer |= request == 1;
	r->asked = false;
}

/* A KeyUpdate may come in pieces; nothing may stand behind it in its record, which would be under
 * the key that it ends. */
static void handshake_in(struct records *r, const uint8_t *p, size_t n)
{
	static const uint8_t head[] = {MESSAGE_KEY_UPDATE, 0, 0, 1};
	size_t missing = (size_t)(KEY_UPDATE_LEN - r->message_n), now = n < missing ? n : missing;
	memcpy(r->message + r->message_n, p, now);
	r->message_n = (uint8_t)(r->message_n + now);
	size_t known = r->message_n < sizeof(head) ? r->message_n : sizeof(head);
	if (!n || r->message[0] != MESSAGE_KEY_UPDATE) {
		broken(r, UNEXPECTED_MESSAGE);
	} else if (memcmp(r->message, head, known) != 0) {
		broken(r, DECODE_ERROR);
	} else if (now < n) {
		broken(r, UNEXPECTED_MESSAGE);
	} else if (r->message_n == KEY_UPDATE_LEN) {
		r->message_n = 0;
		key_update(r);
	}
}

/* What has been opened: n bytes of content. How many of them are the application's. */
static size_t content_in(struct records *r, uint8_t type, const uint8_t *p, size_t n)
{
	if (type == APPLICATION_DATA && n && !r->message_n) {
		r->idle = 0;
		return n;
	}
	if (++r->idle > RECORDS_IDLE || (r->message_n && type != HANDSHAKE))
		broken(r, UNEXPECTED_MESSAGE);
	else if (type == ALERT)
		alert_in(r, p, n);
	else if (type == HANDSHAKE)
		handshake_in(r, p, n);
	else if (type != APPLICATION_DATA)
		broken(r, UNEXPECTED_MESSAGE);
	return 0;
}

/* Where the content ends: the last byte that is not zero is its type, of which `last` may be the
 * place. */
static size_t padding_strip(const uint8_t *p, size_t n, const uint8_t *last, uint8_t *type)
{
	*type = n ? last ? *last : p[n - 1] : 0;
	while (n && !*type)
		if (--n)
			*type = p[n - 1];
	return n;
}

/* One record, `whole` bytes of input, into out if it fits there, else where it lies. */
static size_t record_in(struct records *r, struct km_buf *in, size_t whole, uint8_t *out,
			size_t room)
{
	uint8_t *p = km_buf_head(in), header[RECORD_HEADER], apart = 0, type;
	size_t n = whole - RECORD_HEADER - RECORD_TAG;
	bool fits = n - 1 <= room;
	uint8_t *last = n - 1 == room ? &apart : NULL;
	uint8_t *to = fits ? out : p + RECORD_HEADER;
	memcpy(header, p, sizeof(header));
	r->last = (uint16_t)whole;
	if (!record_open(&r->keys, header, p + RECORD_HEADER, n, to, last)) {
		broken(r, r->keys.half[RECORD_READ].seq == UINT64_MAX ? INTERNAL_ERROR
								      : BAD_RECORD_MAC);
		return 0;
	}
	size_t content = padding_strip(to, n, last, &type);
	if (n > RECORDS_PLAIN + 1) /* section 5.4: padding does not make room for more */
		broken(r, RECORD_OVERFLOW);
	else if (!content)
		broken(r, UNEXPECTED_MESSAGE);
	else
		content = content_in(r, type, to, content - 1);
	if (r->over != RECORDS_WAIT)
		return 0;
	if (fits) {
		km_buf_consume(in, whole);
		return content;
	}
	km_buf_consume(in, RECORD_HEADER);
	r->plain = (uint16_t)content;
	r->behind = (uint16_t)(whole - RECORD_HEADER - content);
	if (!content) {
		km_buf_consume(in, r->behind);
		r->behind = 0;
	}
	return 0;
}

/* The rest of a record that has been opened where it lies. */
static size_t plain_take(struct records *r, struct km_buf *in, uint8_t *out, size_t room)
{
	size_t n = r->plain < room ? r->plain : room;
	memcpy(out, km_buf_head(in), n);
	km_buf_consume(in, n);
	r->plain = (uint16_t)(r->plain - n);
	if (!r->plain) {
		km_buf_consume(in, r->behind);
		r->behind = 0;
	}
	return n;
}

enum records_got records_open(struct records *r, struct km_buf *in, uint8_t *out, size_t room,
			      size_t *n)
{
	size_t whole;
	*n = 0;
	while (*n < room) {
		if (r->plain)
			*n += plain_take(r, in, out + *n, room - *n);
		else if (r->over == RECORDS_WAIT && (whole = record_whole(r, in)))
			*n += record_in(r, in, whole, out + *n, room - *n);
		else
			break;
	}
	if (*n)
		return RECORDS_DATA;
	if (r->over != RECORDS_WAIT)
		km_buf_free(in);
	return r->over;
}

bool records_ready(const struct records *r, const struct km_buf *in)
{
	const uint8_t *h = km_buf_head(in);
	return r->plain || r->over != RECORDS_WAIT ||
	       (in->len >= RECORD_HEADER && in->len - RECORD_HEADER >= length_of(h));
}

size_t records_want(const struct records *r, const struct km_buf *in, size_t most)
{
	size_t begun =
	    in->len < RECORD_HEADER ? r->last : RECORD_HEADER + (size_t)length_of(km_buf_head(in));
	if (begun < RECORDS_PLAIN || begun > most)
		begun = most = RECORDS_PLAIN;
	else if (r->last < RECORDS_PLAIN)
		most = begun; /* so far it only says that it is one */
	return most / begun * begun - in->len;
}

/* ---- sealing ---- */

static int seal(struct records *r, struct km_buf *out, enum type type, const uint8_t *p, size_t n)
{
	uint8_t *at;
	size_t len = n + 1 + RECORD_TAG;
	int rc = km_buf_reserve(out, RECORD_HEADER + len, &at);
	if (rc)
		return rc;
	/* section 5.2 */
	const uint8_t header[RECORD_HEADER] = {APPLICATION_DATA, 3, 3, (uint8_t)(len >> 8),
					       (uint8_t)len};
	memcpy(at, header, sizeof(header));
	if (!record_seal(&r->keys, header, p, n, type, at + RECORD_HEADER))
		return KM_EPROTO;
	km_buf_commit(out, RECORD_HEADER + len);
	return 0;
}

/* An answer is due before the next application data (section 4.6.3). */
static int key_update_out(struct records *r, struct km_buf *out)
{
	bool read_full = r->keys.half[RECORD_READ].seq >= RECORDS_REKEY && !r->asked;
	bool write_full = r->keys.half[RECORD_WRITE].seq >= RECORDS_REKEY;
	if (!r->answer && !read_full && !write_full)
		return 0;
	const uint8_t message[KEY_UPDATE_LEN] = {MESSAGE_KEY_UPDATE, 0, 0, 1, read_full};
	int rc = seal(r, out, HANDSHAKE, message, sizeof(message));
	if (rc)
		return rc;
	r->answer = false;
	r->asked |= read_full;
	return record_keys_next(&r->keys, RECORD_WRITE) ? 0 : KM_EPROTO;
}

int records_seal(struct records *r, struct km_buf *out, const uint8_t *p, size_t n)
{
	size_t records = (n + RECORDS_PLAIN - 1) / RECORDS_PLAIN;
	uint8_t *room;
	if (r->closed)
		return KM_EPROTO; /* section 6.1 */
	/* Nothing fails for want of memory when a part of it is sealed. */
	int rc = km_buf_reserve(out, n + records * (RECORDS_FULL - RECORDS_PLAIN) + RECORDS_EXTRA,
				&room);
	if (!rc)
		rc = key_update_out(r, out);
	while (!rc && n) {
		size_t now = n < RECORDS_PLAIN ? n : RECORDS_PLAIN;
		rc = seal(r, out, APPLICATION_DATA, p, now);
		p += now;
		n -= now;
	}
	return rc;
}

size_t records_unsent(size_t n, size_t left)
{
	if (!left || !n)
		return 0;
	size_t last = (n - 1) % RECORDS_PLAIN + 1, last_len = last + RECORDS_FULL - RECORDS_PLAIN;
	size_t full = left > last_len ? (left - last_len + RECORDS_FULL - 1) / RECORDS_FULL : 0;
	size_t unsent = full * RECORDS_PLAIN + last;
	return unsent < n ? unsent : n;
}

int records_close(struct records *r, struct km_buf *out)
{
	bool fatal = r->over == RECORDS_BROKEN;
	const uint8_t alert[] = {fatal ? 2 : 1, fatal ? r->alert : CLOSE_NOTIFY};
	if (r->closed || (fatal && r->alert == CLOSE_NOTIFY))
		return 0;
	r->closed = true;
	return seal(r, out, ALERT, alert, sizeof(alert));
}
