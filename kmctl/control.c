/* SPDX-License-Identifier: MIT */
#include "kmctl/control.h"
#include "libkm/base/buf.h"
#include "libkm/base/table.h"
#include "libkm/base/util.h"
#include "libkm/link/pin.h"
#include <curl/curl.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_MAX (16U << 20)
#define PATIENCE_S 60L
#define CONNECT_S 15L
#define TOKEN_MAX 256
#define PAGES_MAX 10000

struct control {
	struct control_settings settings;
	uint8_t pin[KM_PIN_LEN];
	CURL *curl;
	struct curl_slist *headers;
	struct km_errtext why; /* what the check of the pin has found */
	char error[CURL_ERROR_SIZE];
};

/* ---- who control is ---- */

static int on_verify(X509_STORE_CTX *vc, void *arg)
{
	struct control *c = arg;
	int rc = km_pin_verify(c->pin, X509_STORE_CTX_get0_cert(vc),
			       X509_STORE_CTX_get0_untrusted(vc), &c->why);

	X509_STORE_CTX_set_error(vc, rc ? X509_V_ERR_CERT_UNTRUSTED : X509_V_OK);
	return rc == 0;
}

static CURLcode on_context(CURL *curl, void *context, void *arg)
{
	(void)curl;
	SSL_CTX_set_cert_verify_callback(context, on_verify, arg);
	return CURLE_OK;
}

static int recognise(struct control *c, struct km_errtext *err)
{
	const struct control_settings *s = &c->settings;

	if (!s->control)
		return km_errtext_set(err, KM_EINVAL,
				      "where is control? -control https://HOST:3000, or control = "
				      "in ~/.config/kakuremichi/kmctl.conf");
	if (!s->ca_file && !s->pin)
		return km_errtext_set(err, KM_EINVAL,
				      "how is control recognised? -ca-file root.crt or -pin "
				      "sha256//…, or one of them in kmctl.conf");
	if (s->ca_file && access(s->ca_file, R_OK))
		return km_errtext_set(err, KM_EIO, "%s: %s", s->ca_file, strerror(errno));
	curl_easy_setopt(c->curl, CURLOPT_CAPATH, NULL);
	curl_easy_setopt(c->curl, CURLOPT_CAINFO, s->ca_file);
	if (!s->pin)
		return 0;
	if (km_pin_parse(c->pin, s->pin))
		return km_errtext_set(err, KM_EINVAL, "the pin %s is malformed", s->pin);
	/* The pinned root signs nothing but control's own: a name need not be in it (pin.h). */
	curl_easy_setopt(c->curl, CURLOPT_SSL_VERIFYHOST, 0L);
	curl_easy_setopt(c->curl, CURLOPT_SSL_CTX_FUNCTION, on_context);
	curl_easy_setopt(c->curl, CURLOPT_SSL_CTX_DATA, c);
	return 0;
}

/* ---- who we are ---- */

static int add_header(struct control *c, const char *line)
{
	struct curl_slist *more = curl_slist_append(c->headers, line);

	if (!more)
		return KM_ENOMEM;
	c->headers = more;
	return 0;
}

/* The token's file may also be the header that curl -H @FILE takes. */
static int read_token(struct control *c, struct km_errtext *err)
{
	static const char header[] = "Authorization: Bearer ";
	static const char chars[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
	const char *path = c->settings.token_file;
	char *text = NULL, *token, *line;
	int rc;

	if (!path)
		return km_errtext_set(err, KM_EINVAL,
				      "where is the operator's token? -token-file FILE, or "
				      "token_file = in kmctl.conf");
	rc = km_secret_read(path, TOKEN_MAX, &text, err);
	if (rc)
		return rc;
	token = text;
	if (!strncmp(token, header, strlen(header)))
		token += strlen(header);
	if (!*token || token[strspn(token, chars)]) {
		rc = km_errtext_set(err, KM_EINVAL, "%s: this is no token of control's", path);
	} else {
		line = km_xasprintf("%s%s", header, token);
		rc = add_header(c, line);
		km_wipe(line, strlen(line));
		free(line);
	}
	km_wipe(text, strlen(text));
	free(text);
	return rc;
}

/* ---- life ---- */

int control_open(struct control **out, struct flag *flags, size_t n, struct km_errtext *err)
{
	struct control *c = km_xcalloc(1, sizeof(*c));
	int rc = control_settings_load(&c->settings, flags, n, err);

	if (!rc && (curl_global_init(CURL_GLOBAL_DEFAULT) || !(c->curl = curl_easy_init())))
		rc = km_errtext_set(err, KM_ENOMEM, "libcurl cannot start");
	if (!rc)
		rc = recognise(c, err);
	if (!rc)
		rc = read_token(c, err);
	if (!rc)
		rc = add_header(c, "Content-Type: application/json");
	if (rc) {
		control_close(c);
		c = NULL;
	}
	*out = c;
	return rc;
}

void control_close(struct control *c)
{
	if (!c)
		return;
	for (struct curl_slist *h = c->headers; h; h = h->next)
		km_wipe(h->data, strlen(h->data));
	curl_slist_free_all(c->headers);
	curl_easy_cleanup(c->curl);
	control_settings_free(&c->settings);
	free(c);
}

/* ---- requests ---- */

static size_t on_data(char *p, size_t size, size_t n, void *arg)
{
	return km_buf_add(arg, p, size * n) ? 0 : size * n;
}

static int unreached(const struct control *c, CURLcode code, struct km_errtext *err)
{
	const char *why = c->why.text[0] ? c->why.text
			  : c->error[0]  ? c->error
					 : curl_easy_strerror(code);
	char *shown = km_plain(why);

	km_errtext_set(err, KM_ECLOSED, "%s: %s", c->settings.control, shown);
	free(shown);
	return KM_ECLOSED;
}

/* What control says is wrong, with the first detail. */
static int refused(long status, const json_t *answer, const char *what, struct km_errtext *err)
{
	static const struct {
		long status;
		int rc;
	} codes[] = {{400, KM_EINVAL},
		     {401, KM_EAUTH},
		     {403, KM_EAUTH},
		     {404, KM_ENOTFOUND},
		     {409, KM_EEXIST}};
	const json_t *detail = json_array_get(json_object_get(answer, "details"), 0);
	const char *said = control_text(answer, "error"), *more = control_text(detail, "message");
	char *a = km_plain(said ? said : "no reason"), *b = km_plain(more ? more : "");
	int rc = KM_EPROTO;

	for (size_t i = 0; i < KM_ARRAY_LEN(codes); i++)
		if (codes[i].status == status)
			rc = codes[i].rc;
	km_errtext_set(err, rc, "%s: control answers %ld: %s%s%s", what, status, a, *b ? ": " : "",
		       b);
	free(a);
	free(b);
	return rc;
}

static int take_answer(struct control *c, const struct km_buf *body, const char *what,
		       json_t **answer, struct km_errtext *err)
{
	long status = 0;
	json_t *j = NULL;
	int rc = 0;

	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
	if (body->len)
		j = json_loadb((char *)km_buf_head(body), body->len, JSON_REJECT_DUPLICATES, NULL);
	if (status < 200 || status > 299)
		rc = refused(status, j, what, err);
	else if (body->len && !j)
		rc = km_errtext_set(err, KM_EPROTO, "%s: the answer is no JSON", what);
	if (!rc && answer)
		*answer = json_incref(j);
	json_decref(j);
	return rc;
}

int control_call(struct control *c, const char *method, const char *path, const json_t *body,
		 json_t **answer, struct km_errtext *err)
{
	size_t base = strlen(c->settings.control);
	char *url, *what = km_xasprintf("%s %s", method, path);
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	struct km_buf got;
	CURLcode code;
	int rc;

	if (answer)
		*answer = NULL;
	while (base && c->settings.control[base - 1] == '/')
		base--;
	url = km_xasprintf("%.*s%s", (int)base, c->settings.control, path);
	km_buf_init(&got, ANSWER_MAX);
	c->error[0] = c->why.text[0] = '\0';
	curl_easy_setopt(c->curl, CURLOPT_URL, url);
	curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, c->headers);
	curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, c->error);
	curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "kmctl/" KM_VERSION);
	curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, PATIENCE_S);
	curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &got);
	curl_easy_setopt(c->curl, CURLOPT_HTTPGET, 1L);
	if (text || !strcmp(method, "POST"))
		curl_easy_setopt(c->curl, CURLOPT_COPYPOSTFIELDS, text ? text : "");
	curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
	code = curl_easy_perform(c->curl);
	rc = code ? unreached(c, code, err) : take_answer(c, &got, what, answer, err);
	km_buf_wipe(&got);
	free(text);
	free(url);
	free(what);
	return rc;
}

int control_list(struct control *c, const char *path, json_t **items, struct km_errtext *err)
{
	const char *more = strchr(path, '?') ? "&" : "?";
	char *at = km_xasprintf("%s%slimit=100", path, more);
	json_t *page, *all = json_array();
	int rc = 0;

	for (int i = 0; at && !rc && i < PAGES_MAX; i++) {
		const char *next;
		char *cursor;

		rc = control_call(c, "GET", at, NULL, &page, err);
		free(at);
		at = NULL;
		if (rc)
			break;
		if (!json_is_array(json_object_get(page, "items")) ||
		    json_array_extend(all, json_object_get(page, "items")))
			rc = km_errtext_set(err, KM_EPROTO, "GET %s: the answer is no list", path);
		next = control_text(page, "next");
		if (!rc && next) {
			cursor = curl_easy_escape(c->curl, next, 0);
			at = km_xasprintf("%s%slimit=100&cursor=%s", path, more, cursor);
			curl_free(cursor);
		}
		json_decref(page);
	}
	free(at);
	if (rc) {
		json_decref(all);
		all = NULL;
	}
	*items = all;
	return rc;
}

char *control_escape(struct control *c, const char *text)
{
	char *escaped = curl_easy_escape(c->curl, text, 0), *copy = km_xstrdup(escaped);

	curl_free(escaped);
	return copy;
}

const char *control_text(const json_t *item, const char *field)
{
	return json_string_value(json_object_get(item, field));
}

int control_pick(const json_t *items, const char *field, const char *name, const char *what,
		 const json_t **item, struct km_errtext *err)
{
	const json_t *one, *found = NULL;
	size_t i, n = 0;

	json_array_foreach(items, i, one)
	{
		const char *id = control_text(one, "id"), *text = control_text(one, field);

		if (id && !strcmp(id, name)) {
			*item = one;
			return 0;
		}
		if (text && !strcmp(text, name)) {
			found = one;
			n++;
		}
	}
	if (!n)
		return km_errtext_set(err, KM_ENOTFOUND, "no %s is called %s", what, name);
	if (n > 1)
		return km_errtext_set(err, KM_EINVAL,
				      "%zu of them are called %s: name it by its id", n, name);
	*item = found;
	return 0;
}
