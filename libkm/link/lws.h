/* SPDX-License-Identifier: MIT */
/* What client and server share of libwebsockets. Its contexts are made and destroyed under one lock
 * (it keeps OpenSSL indices in globals), its log goes to ours at debug level: all it can complain
 * about is either reported by us or caused by a stranger. */
#ifndef KM_LINK_LWS_H
#define KM_LINK_LWS_H

#include "libkm/link/envelope.h"
#include <libwebsockets.h>

#define KM_FRAGMENT 65536 /* bytes of a message that are written at once */

/* Both ends ping a silent peer after 20 s and give it up after 50. */
extern const lws_retry_bo_t km_lws_retry;

struct lws_context *km_lws_create(struct lws_context_creation_info *info);
/* The last step of destruction; see lws_context_destroy for loops of one's own. Accepts NULL. */
void km_lws_destroy(struct lws_context *ctx);

/* What waits to be written on one connection. */
struct km_tx {
	struct km_frame *head, *tail;
};
void km_tx_add(struct km_tx *tx, struct km_frame *list);
/* Writes one fragment of the first frame; asks for the next call itself. Returns the first frame
 * when it has gone out whole (the caller frees it), and sets *failed when the connection is over.
 */
struct km_frame *km_tx_write(struct km_tx *tx, struct lws *wsi, bool *failed);
void km_tx_clear(struct km_tx *tx);

/* Sets status and reason (cut to what a close frame holds) of the close frame to come. */
void km_lws_close_reason(struct lws *wsi, unsigned status, const char *why);
/* The reason of a received close frame ("1008 text") into out. */
void km_lws_close_text(char *out, size_t size, const void *payload, size_t len);

#endif
