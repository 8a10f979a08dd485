/* SPDX-License-Identifier: MIT */
#include "controld/api/options.h"
#include "controld/api/options_parts.h"
#include "controld/api/place.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <string.h>

enum {
	HTTP = 1, /* needs a gateway that reads requests */
	TLS = 2,  /* is about TLS to the target */
};
static const struct option {
	const char *name;
	option_read *read;
	unsigned about;
} options[] = {
    {"stripPath", option_bool, HTTP},
    {"hostHeader", option_host, HTTP},
    {"tlsVerify", option_bool, TLS},
    {"tlsServerName", option_server_name, TLS},
    {"tlsCa", option_ca, TLS},
    {"requestHeaders", option_headers, HTTP},
    {"responseHeaders", option_headers, HTTP},
    {"redirects", option_redirects, HTTP},
    {"hsts", option_hsts, HTTP},
    {"maintenance", option_maintenance, HTTP},
    {"rateLimit", option_rate, HTTP},
    {"addressRateLimit", option_rate, HTTP},
    {"maxBody", option_size, HTTP},
    {"maxConnections", option_connections, 0},
};

static const struct option *find(const char *name)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(options); i++)
		if (strcmp(options[i].name, name) == 0)
			return &options[i];
	return NULL;
}

json_t *options_read(const json_t *in, const char *at, struct details *d)
{
	const char *key;
	json_t *v;
	if (!input_is_object(in, at, d))
		return NULL;
	json_t *out = json_object();
	json_object_foreach((json_t *)(uintptr_t)in, key, v)
	{
		const struct option *o = find(key);
		char field[INPUT_AT_LEN];
		input_at(field, at, key);
		if (!o)
			details_add(d, field, "is not an option of tunnels");
		else if (json_is_null(v))
			json_object_set_new(out, key, json_null());
		else
			json_object_set_new(out, key, o->read(v, field, d));
	}
	return out;
}

json_t *options_merge(const json_t *was, const json_t *patch)
{
	json_t *out = was ? json_copy((json_t *)(uintptr_t)was) : json_object(), *v;
	const char *key;
	json_object_foreach((json_t *)(uintptr_t)patch, key, v)
	{
		if (json_is_null(v))
			json_object_del(out, key);
		else
			json_object_set(out, key, v);
	}
	return out;
}

/* ---- the whole ---- */

static const json_t *get(const struct options_tunnel *t, const char *name)
{
	return json_object_get(t->options, name);
}

/* Mistakes of every option that is about one of these, and is there. */
static void refuse_about(const struct options_tunnel *t, unsigned about, const char *why,
			 struct details *d)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(options); i++) {
		char field[INPUT_AT_LEN];
		if ((options[i].about & about) && get(t, options[i].name))
			details_add(d, input_at(field, "options", options[i].name), "%s", why);
	}
}

static void check_passthrough(const struct options_tunnel *t, struct details *d)
{
	if (t->path[0])
		details_add(
		    d, "path",
		    "a tunnel with tls \"passthrough\" leads a whole domain: the gateway does "
		    "not read its requests");
	if (strcmp(t->protocol, "http") != 0)
		details_add(
		    d, "targetProtocol",
		    "with tls \"passthrough\" the stranger's own TLS reaches the target: name "
		    "it by host:port alone");
	refuse_about(t, HTTP,
		     "needs a gateway that reads requests, which tls \"passthrough\" forbids", d);
	refuse_about(t, TLS,
		     "is the stranger's and the target's own affair with tls \"passthrough\"", d);
}

static void check_https(const struct options_tunnel *t, struct details *d)
{
	bool unverified = json_is_false(get(t, "tlsVerify"));
	if (strcmp(t->protocol, "https") != 0) {
		refuse_about(t, TLS,
			     "is for targets that speak TLS: targetProtocol must be \"https\"", d);
		return;
	}
	if (unverified && get(t, "tlsCa"))
		details_add(d, "options.tlsCa", "is not used when tlsVerify is false");
	if (!unverified && !get(t, "tlsServerName") && strncmp(t->target, "unix:", 5) == 0)
		details_add(
		    d, "options.tlsServerName",
		    "is required: a Unix socket has no name that its certificate could have");
}

static void check_redirects(const struct options_tunnel *t, struct details *d)
{
	const json_t *list = get(t, "redirects"), *one;
	char field[INPUT_AT_LEN];
	size_t i;
	json_array_foreach(list, i, one)
	{
		const char *from = json_string_value(json_object_get(one, "from"));
		if (from && from[0] && !place_path_below(from, t->path)) {
			snprintf(field, sizeof(field), "options.redirects[%zu].from", i);
			details_add(d, field, "never fits: this tunnel has what is below %s only",
				    t->path);
		}
	}
	int loop = option_redirects_loop(list, t->domain);
	if (loop >= 0) {
		snprintf(field, sizeof(field), "options.redirects[%d].to", loop);
		details_add(d, field, "leads into a loop: the rules redirect it without end");
	}
}

void options_check(const struct options_tunnel *t, struct details *d)
{
	const char *host = json_string_value(get(t, "hostHeader"));
	size_t n = t->options ? json_dumpb(t->options, NULL, 0, JSON_COMPACT) : 0;
	if (n > OPTIONS_MAX_BYTES)
		details_add(d, "options", "must not be larger than %d bytes together",
			    OPTIONS_MAX_BYTES);
	if (strcmp(t->tls, "passthrough") == 0) {
		check_passthrough(t, d);
		return;
	}
	check_https(t, d);
	check_redirects(t, d);
	if (strcmp(t->tls, "off") == 0 && get(t, "hsts"))
		details_add(d, "options.hsts", "has no effect without TLS (tls is \"off\")");
	if (host && strcmp(host, "target") == 0 && strncmp(t->target, "unix:", 5) == 0)
		details_add(d, "options.hostHeader", "a Unix socket has no host; name one");
}
