/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/http.h"
#include "libkm/base/buf.h"
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <utlist.h>

#define PATIENCE_S 30L
#define HEADERS_MAX 65536 /* bytes of an answer's headers */
#define PER_HOST 8L       /* connections */

enum header { H_CONTENT_TYPE, H_LOCATION, H_REPLAY_NONCE, H_RETRY_AFTER, H_LINK, N_HEADERS };
static const char *const header_names[N_HEADERS] = {"content-type", "location", "replay-nonce",
						    "retry-after", "link"};

struct acme_http {
	struct event_base *base;
	CURLM *multi;
	struct event *timer;
	char *ca_file;
	struct acme_http_call *calls;
};

struct acme_http_call {
	struct acme_http *http;
	CURL *curl;
	struct curl_slist *headers;
	struct km_buf body;
	char *got[N_HEADERS];
	size_t header_bytes;
	const char *refused; /* why we ended it ourselves */
	char error[CURL_ERROR_SIZE];
	void (*done)(void *arg, const struct acme_answer *a);
	void *arg;
	struct acme_http_call *prev, *next;
};

/* ---- life of a call ---- */

static void forget_headers(struct acme_http_call *c)
{
	for (int i = 0; i < N_HEADERS; i++) {
		free(c->got[i]);
		c->got[i] = NULL;
	}
}

void acme_http_cancel(struct acme_http_call *c)
{
	if (!c)
		return;
	if (c->http) {
		DL_DELETE(c->http->calls, c);
		curl_multi_remove_handle(c->http->multi, c->curl);
	}
	curl_easy_cleanup(c->curl);
	curl_slist_free_all(c->headers);
	km_buf_wipe(&c->body);
	forget_headers(c);
	free(c);
}

static void finished(struct acme_http_call *c, CURLcode code)
{
	struct acme_answer a = {.content_type = c->got[H_CONTENT_TYPE],
				.location = c->got[H_LOCATION],
				.replay_nonce = c->got[H_REPLAY_NONCE],
				.retry_after = c->got[H_RETRY_AFTER],
				.link = c->got[H_LINK]};
	long status = 0;

	if (code == CURLE_OK)
		curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	a.status = (int)status;
	if (status) {
		a.body = c->body.len ? (const char *)km_buf_head(&c->body) : "";
		a.n = c->body.len;
	} else {
		a.failed = c->refused  ? c->refused
			   : *c->error ? c->error
				       : curl_easy_strerror(code);
	}
	c->done(c->arg, &a);
	acme_http_cancel(c);
}

/* A callback may cancel other calls: curl is asked anew each time. */
static void reap(struct acme_http *h)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(h->multi, &left))) {
		struct acme_http_call *c = NULL;
		CURLcode code = m->data.result;

		if (m->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&c);
		if (c)
			finished(c, code);
	}
}

/* ---- curl on the main loop ---- */

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct acme_http *h = arg;
	int running, mask = (what & EV_READ ? CURL_CSELECT_IN : 0) |
			    (what & EV_WRITE ? CURL_CSELECT_OUT : 0);

	curl_multi_socket_action(h->multi, fd, mask, &running);
	reap(h);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct acme_http *h = arg;
	int running;

	(void)fd, (void)what;
	curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	reap(h);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
	struct acme_http *h = arg;
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	(void)multi;
	if (ms < 0)
		return event_del(h->timer);
	return event_add(h->timer, &tv);
}

static void unwatch(struct acme_http *h, curl_socket_t fd, struct event *e)
{
	if (e)
		event_free(e);
	curl_multi_assign(h->multi, fd, NULL);
}

static int watch(CURL *easy, curl_socket_t fd, int what, void *arg, void *old)
{
	struct acme_http *h = arg;
	short kind = (short)(EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) |
			     (what & CURL_POLL_OUT ? EV_WRITE : 0));
	struct event *e;

	(void)easy;
	unwatch(h, fd, old);
	if (what == CURL_POLL_REMOVE)
		return 0;
	e = event_new(h->base, fd, kind, on_ready, h);
	if (!e || event_add(e, NULL)) {
		if (e)
			event_free(e);
		return -1;
	}
	curl_multi_assign(h->multi, fd, e);
	return 0;
}

/* ---- what comes ---- */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct acme_http_call *c = arg;

	if (!km_buf_add(&c->body, p, size * n))
		return size * n;
	c->refused = "the answer is larger than a MiB";
	return 0;
}

static void keep_header(struct acme_http_call *c, int which, const char *value, size_t n)
{
	char *old = c->got[which], *now = NULL;

	if (old && which == H_LINK) {
		if (asprintf(&now, "%s\n%.*s", old, (int)n, value) < 0)
			return;
	} else if (!(now = strndup(value, n))) {
		return;
	}
	free(old);
	c->got[which] = now;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
	struct acme_http_call *c = arg;
	size_t len = size * n, name, from;

	if ((c->header_bytes += len) > HEADERS_MAX) {
		c->refused = "the answer's headers are larger than 64 KiB";
		return 0;
	}
	if (len > 5 &&
	    !strncasecmp(p, "HTTP/", 5)) { /* another head: the one before was no answer */
		forget_headers(c);
		return len;
	}
	for (int i = 0; i < N_HEADERS; i++) {
		name = strlen(header_names[i]);
		if (len <= name || p[name] != ':' || strncasecmp(p, header_names[i], name) != 0)
			continue;
		for (from = name + 1; from < len && (p[from] == ' ' || p[from] == '\t');)
			from++;
		while (len > from && strchr("\r\n \t", p[len - 1]))
			len--;
		keep_header(c, i, p + from, len - from);
		break;
	}
	return size * n;
}

/* ---- what goes ---- */

static struct acme_http_call *call_new(struct acme_http *h, const char *url, const char *protocols)
{
	struct acme_http_call *c = calloc(1, sizeof(*c));

	if (!c || !(c->curl = curl_easy_init())) {
		free(c);
		return NULL;
	}
	km_buf_init(&c->body, ACME_BODY_MAX);
	curl_easy_setopt(c->curl, CURLOPT_PRIVATE, c);
	curl_easy_setopt(c->curl, CURLOPT_URL, url);
	curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, protocols);
	curl_easy_setopt(c->curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "kakuremichi/" KM_VERSION);
	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->curl, CURLOPT_QUICK_EXIT, 1L); /* a name being looked up stops nobody */
	curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, PATIENCE_S);
	curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, PATIENCE_S);
	curl_easy_setopt(c->curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->error);
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(c->curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c->curl, CURLOPT_HEADERDATA, c);
	if (h->ca_file) {
		curl_easy_setopt(c->curl, CURLOPT_CAPATH, NULL);
		curl_easy_setopt(c->curl, CURLOPT_CAINFO, h->ca_file);
	}
	return c;
}

static bool add_header(struct acme_http_call *c, const char *line)
{
	struct curl_slist *more = curl_slist_append(c->headers, line);

	if (more)
		c->headers = more;
	return more != NULL;
}

/* Takes c over, also when it fails. */
static struct acme_http_call *begin(struct acme_http *h, struct acme_http_call *c,
				    void (*done)(void *, const struct acme_answer *), void *arg)
{
	c->done = done;
	c->arg = arg;
	curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, c->headers);
	if (curl_multi_add_handle(h->multi, c->curl) != CURLM_OK) {
		acme_http_cancel(c);
		return NULL;
	}
	c->http = h;
	DL_APPEND(h->calls, c);
	return c;
}

struct acme_http_call *acme_http_send(struct acme_http *h, const struct acme_request *r,
				      void (*done)(void *arg, const struct acme_answer *a),
				      void *arg)
{
	struct acme_http_call *c = call_new(h, r->url, "https");
	char accept[100];
	bool ok = c != NULL;

	if (!c)
		return NULL;
	snprintf(accept, sizeof(accept), "Accept: %s", r->accept ? r->accept : "*/*");
	ok = add_header(c, accept) && add_header(c, "Accept-Language: en");
	if (r->method == ACME_HEAD)
		curl_easy_setopt(c->curl, CURLOPT_NOBODY, 1L);
	if (r->method == ACME_POST) {
		ok = ok && add_header(c, "Content-Type: application/jose+json") &&
		     add_header(c, "Expect:");
		if (curl_easy_setopt(c->curl, CURLOPT_COPYPOSTFIELDS, r->body ? r->body : ""))
			ok = false;
	}
	if (!ok) {
		acme_http_cancel(c);
		return NULL;
	}
	return begin(h, c, done, arg);
}

struct acme_http_call *acme_http_custom(struct acme_http *h, const char *method, const char *url,
					const char *const *headers, const char *body,
					void (*done)(void *arg, const struct acme_answer *a),
					void *arg)
{
	struct acme_http_call *c = call_new(h, url, "http,https");
	bool ok = c && add_header(c, "Expect:");

	for (; ok && headers && *headers; headers++)
		ok = add_header(c, *headers);
	if (ok && body && curl_easy_setopt(c->curl, CURLOPT_COPYPOSTFIELDS, body))
		ok = false;
	if (ok && !strcmp(method, "HEAD"))
		curl_easy_setopt(c->curl, CURLOPT_NOBODY, 1L);
	else if (ok && curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method))
		ok = false;
	if (!ok) {
		acme_http_cancel(c);
		return NULL;
	}
	return begin(h, c, done, arg);
}

/* ---- life ---- */

int acme_http_new(struct acme_http **out, struct event_base *base, const char *ca_file,
		  struct km_errtext *err)
{
	struct acme_http *h = NULL;

	*out = NULL;
	if (ca_file && access(ca_file, R_OK))
		return km_errtext_set(err, KM_EIO, "%s: %s", ca_file, strerror(errno));
	if (curl_global_init(CURL_GLOBAL_DEFAULT) || !(h = calloc(1, sizeof(*h))))
		return km_errtext_set(err, KM_ENOMEM, "libcurl cannot start");
	h->base = base;
	h->multi = curl_multi_init();
	h->timer = evtimer_new(base, on_timer, h);
	if (!h->multi || !h->timer || (ca_file && !(h->ca_file = strdup(ca_file)))) {
		acme_http_free(h);
		return km_errtext_set(err, KM_ENOMEM, "libcurl cannot start");
	}
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, watch);
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, set_timer);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_MAX_HOST_CONNECTIONS, PER_HOST);
	*out = h;
	return 0;
}

void acme_http_free(struct acme_http *h)
{
	struct acme_http_call *c, *next;

	if (!h)
		return;
	DL_FOREACH_SAFE (h->calls, c, next)
		acme_http_cancel(c);
	if (h->multi)
		curl_multi_cleanup(h->multi);
	if (h->timer)
		event_free(h->timer);
	free(h->ca_file);
	free(h);
}
