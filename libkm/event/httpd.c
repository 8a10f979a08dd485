/* SPDX-License-Identifier: MIT */
#include "libkm/event/httpd.h"
#include "libkm/base/addr.h"
#include "libkm/base/buf.h"
#include "libkm/base/metrics.h"
#include "libkm/base/process.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <stdlib.h>
#include <string.h>

#define METRICS_MAX (64U << 20) /* 10,000 tunnels of a gateway */
#define HEADERS_MAX 8192
#define BODY_MAX 1024
#define IDLE_SECONDS 10

struct km_httpd {
	struct evhttp *http;
	const char *(*ready)(void *arg);
	void *arg;
};

static void answer(struct evhttp_request *req, int code, const char *type, const void *p, size_t n)
{
	struct evkeyvalq *head = evhttp_request_get_output_headers(req);
	struct evbuffer *body = evhttp_request_get_output_buffer(req);

	evhttp_add_header(head, "Content-Type", type);
	evhttp_add_header(head, "Cache-Control", "no-store");
	evbuffer_add(body, p, n);
	evhttp_send_reply(req, code, NULL, NULL);
}

static void answer_text(struct evhttp_request *req, int code, const char *text)
{
	answer(req, code, "text/plain; charset=utf-8", text, strlen(text));
}

static void on_metrics(struct evhttp_request *req, void *arg)
{
	struct km_buf text;

	(void)arg;
	km_buf_init(&text, METRICS_MAX);
	if (km_metrics_print(&text) || km_process_print(&text))
		answer_text(req, 500, "the metrics do not fit\n");
	else
		answer(req, 200, "text/plain; version=0.0.4; charset=utf-8", km_buf_head(&text),
		       text.len);
	km_buf_free(&text);
}

static void on_healthz(struct evhttp_request *req, void *arg)
{
	(void)arg;
	answer_text(req, 200, "ok\n");
}

static void on_readyz(struct evhttp_request *req, void *arg)
{
	struct km_httpd *h = arg;
	const char *missing = h->ready ? h->ready(h->arg) : NULL;

	answer_text(req, missing ? 503 : 200, missing ? missing : "ok");
}

static void on_other(struct evhttp_request *req, void *arg)
{
	(void)arg;
	answer_text(req, 404, "not found: try /metrics, /healthz or /readyz\n");
}

int km_httpd_start(struct km_httpd **out, struct event_base *base, const char *listen,
		   const char *(*ready)(void *arg), void *arg, struct km_errtext *err)
{
	struct km_hostport hp;
	struct km_httpd *h;
	int e;

	*out = NULL;
	if (!listen || !*listen)
		return 0;
	e = km_hostport_parse(&hp, listen, err);
	if (e)
		return e;
	h = calloc(1, sizeof(*h));
	if (!h)
		return km_errtext_set(err, KM_ENOMEM, "out of memory");
	h->ready = ready;
	h->arg = arg;
	h->http = evhttp_new(base);
	if (!h->http) {
		free(h);
		return km_errtext_set(err, KM_ENOMEM, "out of memory");
	}
	evhttp_set_allowed_methods(h->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD);
	evhttp_set_max_headers_size(h->http, HEADERS_MAX);
	evhttp_set_max_body_size(h->http, BODY_MAX);
	evhttp_set_timeout(h->http, IDLE_SECONDS);
	evhttp_set_cb(h->http, "/metrics", on_metrics, h);
	evhttp_set_cb(h->http, "/healthz", on_healthz, h);
	evhttp_set_cb(h->http, "/readyz", on_readyz, h);
	evhttp_set_gencb(h->http, on_other, h);
	errno = 0;
	if (evhttp_bind_socket(h->http, hp.host[0] ? hp.host : NULL, hp.port)) {
		e = km_errtext_set(err, KM_EIO, "cannot listen on %s: %s", listen,
				   errno ? strerror(errno) : "no such address");
		km_httpd_free(h);
		return e;
	}
	*out = h;
	return 0;
}

void km_httpd_free(struct km_httpd *h)
{
	if (!h)
		return;
	evhttp_free(h->http);
	free(h);
}
