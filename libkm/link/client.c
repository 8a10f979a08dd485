/* SPDX-License-Identifier: MIT */
#include "libkm/link/client.h"
#include "libkm/base/util.h"
#include "libkm/event/mailbox.h"
#include "libkm/link/client_priv.h"
#include <stdio.h>
#include <stdlib.h>

#define SEND_MAX 1024  /* messages that wait */
#define EVENTS_MAX 256 /* in the mailbox */
#define EVENT_BYTES_MAX (64u << 20)
#define EVENTS_PER_TURN 64 /* before the main loop does something else */

void km_client_event_free(struct km_qitem *q)
{
	struct km_client_event *e = (struct km_client_event *)q;

	json_decref(e->data);
	free(e->why);
	free(e);
}

void km_client_cmd_free(struct km_qitem *q)
{
	struct km_client_cmd *cmd = (struct km_client_cmd *)q;

	km_frames_free(cmd->frame);
	free(cmd);
}

/* --- main loop --- */

static void deliver(struct km_link_client *c, struct km_client_event *e)
{
	switch (e->kind) {
	case CLIENT_OPEN:
		c->open_gen = e->gen;
		c->cbs.open(c->arg, e->url);
		break;
	case CLIENT_MESSAGE:
		if (e->gen == c->open_gen)
			c->cbs.message(c->arg, e->type, e->data);
		break;
	case CLIENT_CLOSED:
		c->open_gen = 0;
		c->cbs.closed(c->arg, e->why, e->wait_ms);
		break;
	}
}

static void on_mail(evutil_socket_t fd, short what, void *arg)
{
	struct km_link_client *c = arg;
	struct km_qitem *q;
	bool wake = false;

	(void)fd;
	(void)what;
	for (int i = 0; i < EVENTS_PER_TURN && (q = km_outbox_take(&c->out, &wake)); i++) {
		deliver(c, (struct km_client_event *)q);
		km_client_event_free(q);
	}
	if (wake)
		lws_cancel_service(c->ctx);
}

static struct km_client_cmd *put(struct km_link_client *c, enum km_client_cmd_kind kind,
				 struct km_frame *frame, const char *why)
{
	struct km_client_cmd *cmd = km_xcalloc(1, sizeof(*cmd));

	cmd->kind = kind;
	cmd->gen = c->open_gen;
	cmd->frame = frame;
	snprintf(cmd->why, sizeof(cmd->why), "%s", why ? why : "");
	km_cmdq_push(&c->cmds, &cmd->q);
	lws_cancel_service(c->ctx);
	return cmd;
}

int km_link_client_send(struct km_link_client *c, const char *type, json_t *data)
{
	struct km_frame *frame = NULL;
	size_t total;
	int r;

	if (!c->open_gen)
		r = KM_ECLOSED;
	else if (atomic_load(&c->unsent) >= SEND_MAX)
		r = KM_EFULL;
	else
		r = km_envelope_format(&frame, &total, type, data, 0);
	json_decref(data);
	if (r)
		return r;
	atomic_fetch_add(&c->unsent, 1);
	put(c, CLIENT_SEND, frame, NULL);
	return 0;
}

void km_link_client_reconnect(struct km_link_client *c, const char *why)
{
	if (!c->open_gen)
		return;
	put(c, CLIENT_RECONNECT, NULL, why);
	c->open_gen = 0; /* nothing more is sent or delivered but `closed` */
}

void km_link_client_settled(struct km_link_client *c)
{
	if (c->open_gen)
		put(c, CLIENT_SETTLED, NULL, NULL);
}

/* --- start and end --- */

static int copy_urls(struct km_link_client *c, const struct km_link_client_opts *o,
		     struct km_errtext *err)
{
	bool tls = false;

	if (!o->n_urls)
		return km_errtext_set(err, KM_EINVAL, "control: no URL");
	c->urls = calloc(o->n_urls, sizeof(*c->urls));
	if (!c->urls)
		return KM_ENOMEM;
	for (; c->n_urls < o->n_urls; c->n_urls++) {
		int r = km_link_url_parse(&c->urls[c->n_urls], o->urls[c->n_urls], err);
		if (r)
			return r;
		tls |= c->urls[c->n_urls].tls;
	}
	if (tls && !o->pin)
		return km_errtext_set(err, KM_EINVAL,
				      "control_pin: required for wss:// (control "
				      "writes it to STATE/root.pin)");
	if (o->pin && km_pin_parse(c->pin, o->pin))
		return km_errtext_set(err, KM_EINVAL,
				      "control_pin '%.80s': must be sha256// and 44 "
				      "characters of base64",
				      o->pin);
	return 0;
}

static void dispose(struct km_link_client *c)
{
	if (!c)
		return;
	if (c->ev)
		event_free(c->ev);
	km_resolve_free(c->resolve); /* it wakes the context */
	km_lws_destroy(c->ctx);
	SSL_CTX_free(c->tls);
	km_tx_clear(&c->tx);
	km_buf_free(&c->rx);
	km_joiner_clear(&c->join);
	km_cmdq_destroy(&c->cmds, km_client_cmd_free);
	km_outbox_free(&c->out, km_client_event_free);
	free(c->urls);
	free(c);
}

int km_link_client_start(struct km_link_client **out, struct event_base *base,
			 const struct km_link_client_opts *opts,
			 const struct km_link_client_cbs *cbs, void *arg, struct km_errtext *err)
{
	struct km_link_client *c = calloc(1, sizeof(*c));
	int r;

	*out = NULL;
	if (!c)
		return KM_ENOMEM;
	c->cbs = *cbs;
	c->arg = arg;
	c->gen = 1;
	c->min_ms = opts->reconnect_min_ms > 0 ? opts->reconnect_min_ms : 1000;
	c->max_ms = opts->reconnect_max_ms > 0 ? opts->reconnect_max_ms : 10000;
	snprintf(c->path, sizeof(c->path), "/ws?type=%s", opts->type);
	km_cmdq_init(&c->cmds);
	r = km_outbox_init(&c->out, EVENTS_MAX, EVENT_BYTES_MAX);
	if (r == 0)
		r = copy_urls(c, opts, err);
	if (r == 0)
		r = km_client_thread_prepare(c, err);
	if (r)
		goto out;
	c->ev = event_new(base, km_mailbox_fd(c->out.mail), EV_READ | EV_PERSIST, on_mail, c);
	r = KM_ENOMEM;
	if (!c->ev || event_add(c->ev, NULL))
		goto out;
	r = pthread_create(&c->thread, NULL, km_client_thread, c)
		? km_errtext_set(err, KM_EIO, "cannot start the link's thread")
		: 0;
	if (r)
		goto out;
	*out = c;
	c = NULL;
out:
	dispose(c);
	return r;
}

void km_link_client_free(struct km_link_client *c)
{
	if (!c)
		return;
	put(c, CLIENT_STOP, NULL, NULL);
	pthread_join(c->thread, NULL);
	dispose(c);
}
