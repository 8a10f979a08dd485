/* SPDX-License-Identifier: MIT */
#include "libkm/link/lws.h"
#include "libkm/base/log.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

_Static_assert(KM_FRAME_PRE >= LWS_PRE, "room for the WebSocket header");

const lws_retry_bo_t km_lws_retry = {
    .secs_since_valid_ping = 20,
    .secs_since_valid_hangup = 50,
};

static pthread_mutex_t lws_lock = PTHREAD_MUTEX_INITIALIZER;

static void on_log(int level, const char *line)
{
	char text[512];
	size_t n = strnlen(line, sizeof(text) - 1);

	(void)level;
	memcpy(text, line, n);
	while (n && (text[n - 1] == '\n' || text[n - 1] == ' '))
		n--;
	text[n] = '\0';
	km_debug("websocket library", km_ks("says", text));
}

struct lws_context *km_lws_create(struct lws_context_creation_info *info)
{
	struct lws_context *ctx;

	pthread_mutex_lock(&lws_lock);
	lws_set_log_level(LLL_ERR | LLL_WARN, on_log);
	ctx = lws_create_context(info);
	pthread_mutex_unlock(&lws_lock);
	return ctx;
}

void km_lws_destroy(struct lws_context *ctx)
{
	if (!ctx)
		return;
	pthread_mutex_lock(&lws_lock);
	lws_context_destroy(ctx);
	pthread_mutex_unlock(&lws_lock);
}

void km_tx_add(struct km_tx *tx, struct km_frame *list)
{
	if (tx->head)
		tx->tail->next = list;
	else
		tx->head = list;
	while (list->next)
		list = list->next;
	tx->tail = list;
}

struct km_frame *km_tx_write(struct km_tx *tx, struct lws *wsi, bool *failed)
{
	struct km_frame *f = tx->head;
	size_t n;
	int flags;

	if (!f)
		return NULL;
	n = f->len - f->sent < KM_FRAGMENT ? f->len - f->sent : KM_FRAGMENT;
	flags = lws_write_ws_flags(LWS_WRITE_TEXT, f->sent == 0, f->sent + n == f->len);
	/* The header is written over the bytes before, which are room or have gone out. */
	if (lws_write(wsi, f->buf + KM_FRAME_PRE + f->sent, n, (enum lws_write_protocol)flags) <
	    (int)n) {
		*failed = true;
		return NULL;
	}
	f->sent += n;
	if (f->sent < f->len) {
		lws_callback_on_writable(wsi);
		return NULL;
	}
	tx->head = f->next;
	f->next = NULL;
	if (tx->head)
		lws_callback_on_writable(wsi);
	return f;
}

void km_tx_clear(struct km_tx *tx)
{
	km_frames_free(tx->head);
	tx->head = tx->tail = NULL;
}

void km_lws_close_reason(struct lws *wsi, unsigned status, const char *why)
{
	unsigned char text[124];
	size_t n = strnlen(why ? why : "", sizeof(text) - 1);

	memcpy(text, why ? why : "", n);
	while (n && why[n] && ((unsigned char)why[n] & 0xc0) == 0x80)
		n--; /* not within a character */
	lws_close_reason(wsi, (enum lws_close_status)status, text, n);
}

void km_lws_close_text(char *out, size_t size, const void *payload, size_t len)
{
	const unsigned char *p = payload;

	if (len < 2)
		snprintf(out, size, "without a status");
	else
		snprintf(out, size, "%u%s%.*s", (unsigned)(p[0] << 8 | p[1]), len > 2 ? " " : "",
			 (int)(len - 2), (const char *)p + 2);
}
