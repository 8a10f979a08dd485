/* SPDX-License-Identifier: MIT */
#include "libkm/join/token.h"
#include "libkm/base/util.h"
#include "libkm/link/pin.h"
#include "libkm/link/url.h"
#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "kmj_"
#define SECRET_CHARS 43
#define VERSION 1

/* ---- base64url of any length ---- */

static int digit(char c)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* n characters, unpadded and canonical (RFC 4648 section 5), into malloc'd bytes with a NUL behind
 * them; NULL: they are not. */
static char *decode(const char *s, size_t n, size_t *out_n)
{
	char *out = malloc(n * 3 / 4 + 1);
	uint32_t bits = 0;
	unsigned have = 0;

	*out_n = 0;
	for (size_t i = 0; out && i < n; i++) {
		int d = digit(s[i]);

		if (d < 0)
			goto bad;
		bits = bits << 6 | (uint32_t)d;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[(*out_n)++] = (char)(bits >> have & 0xff);
		}
	}
	if (!out || have >= 6 || (bits & ((1U << have) - 1)) != 0)
		goto bad;
	out[*out_n] = 0;
	return out;
bad:
	free(out);
	return NULL;
}

/* ---- writing ---- */

static json_t *list_of(const struct km_strlist *l)
{
	json_t *a = json_array();

	for (size_t i = 0; i < l->n; i++)
		json_array_append_new(a, json_string(l->items[i]));
	return a;
}

char *km_join_token_format(const struct km_join_token *t)
{
	json_t *facts = json_pack("{s:i, s:s, s:o, s:s, s:o}", "v", VERSION, "t",
				  t->gateway ? "gateway" : "agent", "u", list_of(&t->urls), "p",
				  t->pin, "c", list_of(&t->cas));
	char *json = facts ? json_dumps(facts, JSON_COMPACT) : NULL, *text = NULL;
	size_t n = json ? strlen(json) : 0;

	if (json)
		text = malloc(sizeof(t->secret) + 1 + KM_B64_LEN(n));
	if (text) {
		strcpy(text, t->secret);
		strcat(text, ".");
		km_b64url(json, n, text + strlen(text));
	}
	json_decref(facts);
	free(json);
	return text;
}

/* ---- reading ---- */

static int bad(struct km_errtext *err, const char *what)
{
	return km_errtext_set(err, KM_EINVAL, "this is no join token, or not the whole of one: %s",
			      what);
}

static const char *check_fingerprint(const char *s)
{
	size_t n = strspn(s, "0123456789abcdef");

	return n == 64 && s[n] == 0 ? NULL : "not 64 hexadecimal digits";
}

static int read_list(struct km_strlist *l, const json_t *a, size_t max,
		     const char *(*check)(const char *s), struct km_errtext *err)
{
	size_t n = json_array_size(a);
	const char *why;

	if (!json_is_array(a) || n > max)
		return bad(err, "a list in it is malformed");
	l->items = km_xcalloc(n + 1, sizeof(char *));
	for (; l->n < n; l->n++) {
		const char *s = json_string_value(json_array_get(a, l->n));

		why = s ? check(s) : "not a text";
		if (why)
			return km_errtext_set(err, KM_EINVAL, "the join token says %.200s: %s",
					      s ? s : "", why);
		l->items[l->n] = km_xstrdup(s);
	}
	return 0;
}

static int read_facts(struct km_join_token *t, const json_t *facts, struct km_errtext *err)
{
	const char *type = json_string_value(json_object_get(facts, "t"));
	const char *pin = json_string_value(json_object_get(facts, "p"));
	int rc;

	if (json_integer_value(json_object_get(facts, "v")) != VERSION)
		return km_errtext_set(
		    err, KM_EINVAL, "the join token is of another version than this program knows");
	if (!type || (strcmp(type, "agent") != 0 && strcmp(type, "gateway") != 0))
		return bad(err, "it says neither agent nor gateway");
	t->gateway = strcmp(type, "gateway") == 0;
	if (!pin || km_pin_check(pin))
		return bad(err, "it has no pin of control");
	t->pin = km_xstrdup(pin);
	rc = read_list(&t->urls, json_object_get(facts, "u"), KM_JOIN_URLS_MAX, km_link_url_check,
		       err);
	if (!rc && t->urls.n == 0)
		rc = bad(err, "it does not say where control is");
	if (!rc)
		rc = read_list(&t->cas, json_object_get(facts, "c"), KM_JOIN_CAS_MAX,
			       check_fingerprint, err);
	return rc;
}

static bool secret_ok(const char *s, size_t n)
{
	if (n != KM_JOIN_SECRET_STRLEN - 1 || strncmp(s, PREFIX, strlen(PREFIX)) != 0)
		return false;
	for (size_t i = strlen(PREFIX); i < n; i++)
		if (digit(s[i]) < 0)
			return false;
	return true;
}

int km_join_token_parse(struct km_join_token *t, const char *text, struct km_errtext *err)
{
	const char *dot;
	char *json = NULL;
	json_t *facts = NULL;
	size_t n, json_n;
	int rc;

	memset(t, 0, sizeof(*t));
	while (isspace((unsigned char)*text))
		text++;
	n = strlen(text);
	while (n > 0 && isspace((unsigned char)text[n - 1]))
		n--;
	if (n > KM_JOIN_TOKEN_MAX)
		return km_errtext_set(err, KM_ETOOBIG, "a join token has at most %d bytes",
				      KM_JOIN_TOKEN_MAX);
	if (n == 0)
		return km_errtext_set(err, KM_EINVAL, "there is no join token");
	dot = memchr(text, '.', n);
	if (!dot || !secret_ok(text, (size_t)(dot - text)))
		return bad(err, "it does not begin with kmj_ and a secret");
	memcpy(t->secret, text, (size_t)(dot - text));
	json = decode(dot + 1, n - (size_t)(dot + 1 - text), &json_n);
	facts = json ? json_loadb(json, json_n, JSON_REJECT_DUPLICATES, NULL) : NULL;
	rc = json_is_object(facts) ? read_facts(t, facts, err)
				   : bad(err, "what follows the secret is damaged");
	json_decref(facts);
	free(json);
	return rc;
}

void km_join_token_free(struct km_join_token *t)
{
	km_wipe(t->secret, sizeof(t->secret));
	km_strlist_free(&t->urls);
	km_strlist_free(&t->cas);
	free(t->pin);
	memset(t, 0, sizeof(*t));
}
