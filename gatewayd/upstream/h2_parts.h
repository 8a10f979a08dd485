/* SPDX-License-Identifier: MIT */
/* What h2.c and h2_request.c share. */
#ifndef GATEWAYD_UPSTREAM_H2_PARTS_H
#define GATEWAYD_UPSTREAM_H2_PARTS_H

#include "gatewayd/upstream/h2.h"
#include <nghttp2/nghttp2.h>

struct up_h2 {
	struct up_h2_opts o;
	nghttp2_session *session;
	struct up_h2_stream *streams;
	size_t n;
	bool settled; /* the target has said what it takes */
	bool draining, broken, pinging;
	char why[128];
};

static inline void up_h2_changed(struct up_h2_stream *s)
{
	s->h->o.changed(s->owner);
}

/* Whose this stream is; NULL: nobody's, or the connection's own (0). */
static inline struct up_h2_stream *up_h2_of(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

#endif
