/* SPDX-License-Identifier: MIT */
/* A session and its streams, for front_h2.c, h2_stream.c and h2_frames.c. */
#ifndef GATEWAYD_EDGE_H2_SESSION_H
#define GATEWAYD_EDGE_H2_SESSION_H

#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/front_h2.h"
#include "gatewayd/edge/h2_head.h"
#include "gatewayd/edge/h2_limits.h"
#include <nghttp2/nghttp2.h>

#define H2_BUSY 4               /* streams that may each hold CONN_HIGH; when there are more … */
#define H2_STREAM_HIGH 16384    /* … a stream holds this much of each body */
#define H2_RESETS 64            /* streams on which HEADERS may still come after our RST_STREAM */
#define H2_TRAILERS_MAX (1 << 16) /* bytes of trailers as HPACK gives them out */

struct h2_shared {
	nghttp2_option *option;
	nghttp2_session_callbacks *callbacks;
	struct h2_rates rates;
	uint32_t max_streams, stream_window, conn_window;
	struct km_metric *m_streams, *m_resets_client, *m_resets_gateway, *m_errors,
	    *m_floods[H2_FLOODS];
	struct km_log_limit log;
};

struct h2_stream {
	struct exchange x;
	struct h2 *h;
	int32_t id;
	struct km_buf in, out;
	struct km_buf trailers; /* of the answer, as lines */
	struct timer timer;
	bool ended;     /* the request is whole */
	bool answered;  /* the answer's head has been submitted */
	bool body;      /* … with DATA behind it */
	bool done;      /* the answer's last byte is in out */
	bool deferred;  /* nghttp2 waits for more of it */
	bool reset;     /* we have reset it */
	bool ready_on;  /* in h->ready */
	bool sent;      /* bytes of out have gone since the exchange was asked last */
	size_t trailer_bytes;
	char ws_key[H2_WS_KEY + 1]; /* "": no extended CONNECT */
	struct h2_stream *prev, *next, *ready_prev, *ready_next;
};

struct h2 {
	struct conn *c;
	struct h2_shared *sh;
	nghttp2_session *s;
	struct h2_stream *streams, *ready;
	uint32_t n_streams;
	struct h2_head head;   /* of the block that comes in */
	int32_t head_stream;   /* whose it is; 0: none */
	int32_t last_stream;   /* the newest that the client has opened */
	int32_t resets[H2_RESETS]; /* streams that we have reset, the latest ones */
	uint32_t n_resets;
	int64_t widest; /* the largest of the client's windows when its SETTINGS came */
	bool begun;            /* the client has spoken */
	bool eof;              /* the client sends nothing more */
	bool stopped;          /* GOAWAY has been said for good: nothing is read any more */
	bool draining, drained; /* the client was told that the end comes; told the last request */
	struct h2_limits limits;
};

/* h2_stream.c */
extern const struct front front_h2;
/* NULL: no memory. */
struct h2_stream *h2_stream_new(struct h2 *h, int32_t id);
/* Drops its exchange and frees it. */
void h2_stream_free(struct h2_stream *st, bool politely);
/* To be stepped in this turn. */
void h2_stream_ready(struct h2_stream *st);
/* Steps the ready ones, each as far as its share goes; true when one was. */
bool h2_streams_run(struct h2 *h);
/* The request's head is whole. */
void h2_stream_request(struct h2_stream *st, bool ended);
/* RST_STREAM; its exchange is dropped. */
void h2_stream_reset(struct h2_stream *st, uint32_t error);
/* nghttp2's data source, and what writes a frame of it behind the connection's other bytes. */
ssize_t h2_stream_source(nghttp2_session *s, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
			 nghttp2_data_source *source, void *arg);
int h2_stream_send(nghttp2_session *s, nghttp2_frame *frame, const uint8_t *head, size_t n,
		   nghttp2_data_source *source, void *arg);

/* h2_frames.c: sets what nghttp2 calls. */
void h2_frames_set(nghttp2_session_callbacks *cb);
/* The connection's end, with this code. */
void h2_stop(struct h2 *h, uint32_t error);
/* A flood: counted, logged, and the connection's end. */
void h2_flood(struct h2 *h, enum h2_flood kind);

#endif
