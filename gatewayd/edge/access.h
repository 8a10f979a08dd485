/* SPDX-License-Identifier: MIT */
/* One line of the access log, as text, JSON or fields of the journal. Sans-I/O; what a stranger has
 * sent is escaped and bounded here. There is no place for cookies or credentials, so they cannot
 * get in. */
#ifndef GATEWAYD_EDGE_ACCESS_H
#define GATEWAYD_EDGE_ACCESS_H

#include "gatewayd/edge/http.h"
#include "libkm/base/addr.h"

/* Bytes as the stranger has sent them; what is longer ends with "...". */
#define ACCESS_PATH_MAX 2048
#define ACCESS_AGENT_MAX 384
#define ACCESS_REFERER_MAX 1024
#define ACCESS_ERROR_MAX 200
#define ACCESS_LINE_MAX 32768 /* a line, with every byte escaped */

enum access_format {
	ACCESS_TEXT,    /* the combined format, then key=value; one line */
	ACCESS_JSON,    /* one object a line; valid whatever the bytes */
	ACCESS_JOURNAL, /* KEY=value lines and an empty one: an entry of journald's native protocol
			 */
};

enum access_upstream { ACCESS_UP_NONE, ACCESS_UP_NEW, ACCESS_UP_REUSED };

/* What is not known is empty, NULL, or less than zero. */
struct access_entry {
	int64_t wall_ms; /* when the request began */
	struct km_addr client;
	uint8_t major, minor; /* of HTTP; 0, 0: no request could be read */
	struct http_str method, host, path, agent, referer;
	int status;
	uint64_t bytes_in, bytes_out;       /* of the bodies */
	int64_t duration_ms, first_byte_ms; /* until the end, and until the target's first byte */
	const uint8_t *tunnel;              /* 16 bytes */
	enum access_upstream upstream;
	const char *tls;   /* "TLSv1.3"; "passthrough": a connection, not a request; NULL: plain */
	const char *error; /* a few words, when the gateway itself answered, or it was cut */
};

/* What the formatting of one entry after another remembers. Zero-initialise. */
struct access_clock {
	int64_t second;
	char iso[24], clf[32];
};

/* Writes the entry, which ends with a newline (ACCESS_JOURNAL: with an empty line), and returns its
 * length. No other newline is in it but after a field of the journal, and no control byte. */
size_t access_format(char out[static ACCESS_LINE_MAX], enum access_format how,
		     const struct access_entry *e, struct access_clock *clock);

/* "1/N" (N from 1), or a percentage such as "12.5%" (above 0, at most 100): of 2^32 entries so many
 * are written. KM_EINVAL. */
int access_sample_parse(uint64_t *of_2_32, const char *s) __attribute__((warn_unused_result));

#endif
