/* SPDX-License-Identifier: MIT */
#include "controld/api/options_parts.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define MAX_CA_BYTES 65536
#define MAX_CA 64
#define MAX_TITLE 200
#define MAX_TEXT 4000
#define YEAR_S 31536000
#define MAX_PER_MS 86400000
#define MAX_REQUESTS 1000000000

json_t *option_bool(const json_t *v, const char *at, struct details *d)
{
	if (!json_is_boolean(v)) {
		details_add(d, at, "must be true or false");
		return NULL;
	}
	return json_boolean(json_is_true(v));
}

/* ---- names ---- */

/* Whether s is a host, with a port or (port is false) without. */
static bool host_ok(const char *s, bool port, struct km_hostport *hp)
{
	char text[300];
	if (strlen(s) > 260)
		return false;
	snprintf(text, sizeof(text), "%s%s", s, port ? "" : ":1");
	return km_hostport_parse(hp, text, NULL) == 0 && hp->host[0];
}

json_t *option_host(const json_t *v, const char *at, struct details *d)
{
	const char *s = input_text(v, at, true, d);
	struct km_hostport hp;
	if (s && (host_ok(s, false, &hp) || host_ok(s, true, &hp)))
		return json_string(s);
	if (s)
		details_add(
		    d, at,
		    "must be a host, perhaps with a port, or \"target\" for the target's own");
	return NULL;
}

json_t *option_server_name(const json_t *v, const char *at, struct details *d)
{
	const char *s = input_text(v, at, true, d);
	struct km_hostport hp;
	if (s && host_ok(s, false, &hp) && !hp.is_addr)
		return json_string(s);
	if (s)
		details_add(d, at, "must be a host name");
	return NULL;
}

/* ---- TLS ---- */

/* All certificates of a PEM text, and nothing else of it; their number. */
static int read_certificates(BIO *out, const char *pem)
{
	BIO *in = BIO_new_mem_buf(pem, -1);
	X509 *x;
	int n = 0;
	while (in && (x = PEM_read_bio_X509(in, NULL, NULL, NULL))) {
		n += PEM_write_bio_X509(out, x);
		X509_free(x);
	}
	unsigned long e = ERR_peek_last_error();
	if (ERR_GET_LIB(e) != ERR_LIB_PEM || ERR_GET_REASON(e) != PEM_R_NO_START_LINE)
		n = 0; /* one of them is broken */
	ERR_clear_error();
	BIO_free(in);
	return n;
}

json_t *option_ca(const json_t *v, const char *at, struct details *d)
{
	const char *s = input_text(v, at, true, d);
	BIO *out = s ? BIO_new(BIO_s_mem()) : NULL;
	json_t *got = NULL;
	char *text;
	int count = 0;
	if (!out)
		goto out;
	if (strstr(s, "PRIVATE KEY-----")) {
		details_add(d, at,
			    "holds a private key, which control must not see; give certificates");
	} else if (strlen(s) > MAX_CA_BYTES || (count = read_certificates(out, s)) == 0 ||
		   count > MAX_CA) {
		details_add(d, at, "must be 1 to %d certificates in PEM, at most %d bytes", MAX_CA,
			    MAX_CA_BYTES);
	} else {
		long n = BIO_get_mem_data(out, &text);
		got = json_stringn(text, (size_t)n);
	}
out:
	BIO_free(out);
	return got;
}

json_t *option_hsts(const json_t *v, const char *at, struct details *d)
{
	static const char *const keys[] = {"maxAge", "includeSubDomains", "preload", NULL};
	char field[INPUT_AT_LEN];
	if (json_is_boolean(v))
		return json_is_true(v) ? json_pack("{s:i}", "maxAge", YEAR_S) : json_null();
	if (!json_is_object(v)) {
		details_add(d, at, "must be true, false or {\"maxAge\": seconds, …}");
		return NULL;
	}
	input_refuse_unknown(v, at, keys, d);
	json_t *out = json_object();
	const json_t *age = json_object_get(v, keys[0]);
	if (input_is_int(age, input_at(field, at, keys[0]), 0, 10 * (json_int_t)YEAR_S, d))
		json_object_set_new(out, keys[0], json_integer(json_integer_value(age)));
	for (size_t i = 1; keys[i]; i++) {
		const json_t *b = json_object_get(v, keys[i]);
		if (b && !json_is_null(b))
			json_object_set_new(out, keys[i],
					    option_bool(b, input_at(field, at, keys[i]), d));
	}
	if (json_is_true(json_object_get(out, "preload")) &&
	    (!json_is_true(json_object_get(out, "includeSubDomains")) ||
	     json_integer_value(age) < YEAR_S))
		details_add(d, input_at(field, at, "preload"),
			    "needs includeSubDomains and a maxAge of a year (%d) or more", YEAR_S);
	return out;
}

/* ---- maintenance ---- */

/* A text without control characters but, where lines is true, the ends of lines. */
static void words(json_t *out, const json_t *from, const char *key, const char *at, size_t max,
		  bool lines, struct details *d)
{
	char field[INPUT_AT_LEN];
	const json_t *v = json_object_get(from, key);
	const char *s = json_is_null(v) ? NULL : input_text(v, input_at(field, at, key), false, d);
	if (!s)
		return;
	if (strlen(s) > max)
		details_add(d, field, "must not be longer than %zu bytes", max);
	for (const char *p = s; *p; p++)
		if (((unsigned char)*p < 0x20 && !(lines && *p == '\n')) || *p == 0x7f) {
			details_add(d, field, "may not hold control characters%s",
				    lines ? " but line ends" : "");
			break;
		}
	json_object_set_new(out, key, json_string(s));
}

json_t *option_maintenance(const json_t *v, const char *at, struct details *d)
{
	static const char *const keys[] = {"title", "text", "retryAfter", NULL};
	char field[INPUT_AT_LEN];
	if (json_is_boolean(v))
		return json_is_true(v) ? json_object() : json_null();
	if (!json_is_object(v)) {
		details_add(d, at, "must be true, false or an object");
		return NULL;
	}
	input_refuse_unknown(v, at, keys, d);
	json_t *out = json_object();
	words(out, v, "title", at, MAX_TITLE, false, d);
	words(out, v, "text", at, MAX_TEXT, true, d);
	const json_t *after = json_object_get(v, "retryAfter");
	if (after && !json_is_null(after) &&
	    input_is_int(after, input_at(field, at, "retryAfter"), 1, YEAR_S, d))
		json_object_set_new(out, "retryAfter", json_integer(json_integer_value(after)));
	return out;
}

/* ---- rates and sizes ---- */

/* A number at *s, which goes on behind it; 0: there is none from 1 to max. */
static json_int_t number(const char **s, json_int_t max)
{
	json_int_t n = 0;
	for (; isdigit((unsigned char)**s) && n <= max; (*s)++)
		n = n * 10 + (**s - '0');
	return n <= max ? n : 0;
}

/* "100/s", "300/5m": requests in a time, which is stored in milliseconds. */
static bool rate_text(const char *s, json_int_t *requests, json_int_t *per)
{
	static const struct {
		const char *name;
		json_int_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
	*requests = number(&s, MAX_REQUESTS);
	if (*requests == 0 || *s++ != '/')
		return false;
	json_int_t times = isdigit((unsigned char)*s) ? number(&s, MAX_PER_MS) : 1;
	for (size_t i = 0; i < KM_ARRAY_LEN(units); i++)
		if (strcmp(s, units[i].name) == 0) {
			*per = times * units[i].ms;
			return *per > 0 && *per <= MAX_PER_MS;
		}
	return false;
}

json_t *option_rate(const json_t *v, const char *at, struct details *d)
{
	static const char *const keys[] = {"rate", "burst", NULL};
	char field[INPUT_AT_LEN];
	const json_t *rate = v, *burst = NULL;
	json_int_t requests, per, most;
	snprintf(field, sizeof(field), "%s", at);
	if (json_is_object(v)) {
		input_refuse_unknown(v, at, keys, d);
		rate = json_object_get(v, "rate");
		burst = json_object_get(v, "burst");
		input_at(field, at, "rate");
	}
	const char *s = json_string_value(rate);
	if (!s || !rate_text(s, &requests, &per)) {
		details_add(
		    d, field,
		    "must be requests per time, such as \"100/s\" or \"300/5m\" (ms, s, m, h, "
		    "at most a day)");
		return NULL;
	}
	most = requests;
	if (burst && !json_is_null(burst)) {
		if (!input_is_int(burst, input_at(field, at, "burst"), 1, MAX_REQUESTS, d))
			return NULL;
		most = json_integer_value(burst);
	}
	return json_pack("{s:I, s:I, s:I}", "requests", requests, "per", per, "burst", most);
}

json_t *option_size(const json_t *v, const char *at, struct details *d)
{
	static const char units[] = "kmgt";
	const char *s = json_string_value(v), *unit;
	if (!s)
		return input_is_int(v, at, 0, INT64_MAX, d) ? json_integer(json_integer_value(v))
							    : NULL;
	json_int_t n = number(&s, 1000000);
	unit = n && *s ? strchr(units, tolower((unsigned char)*s)) : NULL;
	if (unit && (!s[1] || strcmp(s + 1, "iB") == 0))
		return json_integer(n << (10 * (unit - units + 1)));
	details_add(d, at, "must be a number of bytes, or such as \"64k\", \"10M\", \"2G\"");
	return NULL;
}

json_t *option_connections(const json_t *v, const char *at, struct details *d)
{
	return input_is_int(v, at, 1, 65536, d) ? json_integer(json_integer_value(v)) : NULL;
}
