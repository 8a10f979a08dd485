/* SPDX-License-Identifier: MIT */
#include "controld/api/input_tunnel.h"
#include "controld/api/input_parts.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

#define MAX_DESCRIPTION 1000

/* The places of a request that say the same in its two forms. */
struct field {
	const json_t *v;
	const char *at; /* how the request names it */
};
struct fields {
	struct field domain, path, agent, target, protocol;
};

static struct field field_of(const json_t *o, const char *key, const char *at)
{
	return (struct field){json_object_get(o, key), at};
}

/* How strangers come. */
static void protocol_must_be_http(const json_t *v, const char *at, struct details *d)
{
	const char *s = v ? input_text(v, at, false, d) : NULL;
	if (s && strcmp(s, "http") != 0)
		details_add(
		    d, at,
		    "is how strangers come, only \"http\" in this version; how the target is "
		    "spoken to is targetProtocol");
}

static void not_built(const json_t *v, const char *at, struct details *d)
{
	if (v && !json_is_null(v))
		details_add(d, at, "is not supported by this version");
}

static void full_match(struct fields *f, const json_t *match, struct details *d)
{
	static const char *const keys[] = {"domain", "path", "port", "protocol", NULL};
	if (!input_is_object(match, "match", d))
		return;
	input_refuse_unknown(match, "match", keys, d);
	not_built(json_object_get(match, "port"), "match.port", d);
	protocol_must_be_http(json_object_get(match, "protocol"), "match.protocol", d);
	if (f->domain.v || f->path.v)
		details_add(d, "match", "give either match or domain and path");
	f->domain = field_of(match, "domain", "match.domain");
	f->path = field_of(match, "path", "match.path");
}

/* A value that may be given because it is what would be so anyway. */
static void only_default(const json_t *v, json_t *def, const char *at, struct details *d)
{
	if (v && !json_equal(v, def)) {
		char *text = json_dumps(def, JSON_ENCODE_ANY);
		details_add(d, at, "only %s is supported by this version", text ? text : "");
		free(text);
	}
	json_decref(def);
}

static void full_targets(struct fields *f, const json_t *targets, struct details *d)
{
	static const char *const keys[] = {"id",       "agentId", "target",   "protocol", "weight",
					   "priority", "enabled", "draining", NULL};
	if (!json_is_array(targets) || json_array_size(targets) == 0) {
		details_add(d, "targets", "must be an array of one target");
		return;
	}
	if (json_array_size(targets) > 1) {
		details_add(d, "targets", "several targets are not supported by this version");
		return;
	}
	const json_t *t = json_array_get(targets, 0);
	if (!input_is_object(t, "targets[0]", d))
		return;
	input_refuse_unknown(t, "targets[0]", keys, d);
	only_default(json_object_get(t, "weight"), json_integer(1), "targets[0].weight", d);
	only_default(json_object_get(t, "priority"), json_integer(0), "targets[0].priority", d);
	only_default(json_object_get(t, "enabled"), json_true(), "targets[0].enabled", d);
	only_default(json_object_get(t, "draining"), json_false(), "targets[0].draining", d);
	if (f->target.v || f->agent.v || f->protocol.v)
		details_add(d, "targets",
			    "give either targets or agentId, target and targetProtocol");
	f->agent = field_of(t, "agentId", "targets[0].agentId");
	f->target = field_of(t, "target", "targets[0].target");
	f->protocol = field_of(t, "protocol", "targets[0].protocol");
}

static void read_match(struct tunnel_input *out, const struct fields *f, bool create,
		       struct details *d)
{
	struct km_errtext err;
	const char *s = input_text(f->domain.v, f->domain.at, create, d);
	out->has_domain = s != NULL;
	if (s && domain_normalize(out->domain, s, &err) < 0)
		details_add(d, f->domain.at, "%s", err.text);
	out->has_path = f->path.v != NULL;
	s = json_is_null(f->path.v) ? NULL : input_text(f->path.v, f->path.at, false, d);
	if (s && place_tunnel_path(out->path, s, &err) < 0) {
		details_add(d, f->path.at, "%s", err.text);
		out->path[0] = '\0';
	}
}

static void read_target(struct tunnel_input *out, const struct fields *f, bool create,
			struct details *d)
{
	static const char *const protocols[] = {"http", "h2c", "https", NULL};
	struct place_target place = {.protocol = NULL};
	struct km_errtext err;
	out->agent_id = input_text(f->agent.v, f->agent.at, create, d);
	if (out->agent_id && !km_uuid_ok(out->agent_id))
		details_add(d, f->agent.at, "must be the id (UUID) of an agent");
	const char *s = input_text(f->target.v, f->target.at, create, d);
	if (s && place_target(&place, s, &err) < 0)
		details_add(d, f->target.at, "%s", err.text);
	else if (s)
		strcpy(out->target, place.address);
	s = input_text(f->protocol.v, f->protocol.at, false, d);
	if (s && !input_known(s, protocols))
		details_add(d, f->protocol.at,
			    "must be \"http\", \"https\" or \"h2c\" (HTTP/2 without TLS)");
	else if (s && place.protocol && strcmp(s, place.protocol) != 0)
		details_add(d, f->protocol.at, "is \"%s\", but %s says \"%s\"", s, f->target.at,
			    place.protocol);
	else
		out->protocol = s ? s : place.protocol;
}

static void read_tls(struct tunnel_input *out, const json_t *v, struct details *d)
{
	static const char *const choices[] = {"auto", "own", "passthrough", "off", NULL};
	const char *s = input_text(v, "tls", false, d);
	if (s && !input_known(s, choices))
		details_add(
		    d, "tls",
		    "must be \"auto\" (gateways obtain a certificate), \"own\" (one that you "
		    "put on them), \"passthrough\" (the target does TLS) or \"off\" (plain HTTP)");
	else
		out->tls = s;
}

static void read_rest(struct tunnel_input *out, const json_t *body, struct details *d)
{
	const json_t *v = json_object_get(body, "enabled");
	if (v && !json_is_boolean(v)) {
		details_add(d, "enabled", "must be true or false");
	} else if (v) {
		out->has_enabled = true;
		out->enabled = json_is_true(v);
	}
	v = json_object_get(body, "description");
	const char *s = json_is_null(v) ? NULL : input_text(v, "description", false, d);
	if (s && strlen(s) > MAX_DESCRIPTION)
		details_add(d, "description", "must not be longer than %d bytes", MAX_DESCRIPTION);
	out->has_description = s || json_is_null(v);
	out->description = s ? s : "";
	v = json_object_get(body, "options");
	out->has_options = v != NULL;
	if (v && !json_is_null(v))
		out->options = options_read(v, "options", d);
}

int input_tunnel(struct tunnel_input *out, const json_t *body, bool create, struct details *d)
{
	static const char *const keys[] = {
	    "domain",  "path", "agentId",     "target",  "port",     "enabled",        "match",
	    "targets", "tls",  "description", "options", "protocol", "targetProtocol", NULL};
	memset(out, 0, sizeof(*out));
	out->enabled = true;
	input_refuse_unknown(body, "", keys, d);
	struct fields f = {field_of(body, "domain", "domain"), field_of(body, "path", "path"),
			   field_of(body, "agentId", "agentId"), field_of(body, "target", "target"),
			   field_of(body, "targetProtocol", "targetProtocol")};
	const json_t *v = json_object_get(body, "match");
	if (v)
		full_match(&f, v, d);
	v = json_object_get(body, "targets");
	if (v)
		full_targets(&f, v, d);
	protocol_must_be_http(json_object_get(body, "protocol"), "protocol", d);
	not_built(json_object_get(body, "port"), "port", d);
	read_match(out, &f, create, d);
	read_target(out, &f, create, d);
	read_tls(out, json_object_get(body, "tls"), d);
	read_rest(out, body, d);
	return input_verdict(d);
}

void input_tunnel_clear(struct tunnel_input *in)
{
	json_decref(in->options);
	in->options = NULL;
}

struct options_tunnel input_tunnel_whole(const struct tunnel_input *in,
					 const struct options_tunnel *was)
{
	static const struct options_tunnel fresh = {"", "", "auto", "", "http", NULL};
	if (!was)
		was = &fresh;
	return (struct options_tunnel){
	    .domain = in->has_domain ? in->domain : was->domain,
	    .path = in->has_path ? in->path : was->path,
	    .tls = in->tls ? in->tls : was->tls,
	    .target = in->target[0] ? in->target : was->target,
	    .protocol = in->protocol ? in->protocol : was->protocol,
	    .options = in->has_options && !in->options ? json_object()
						       : options_merge(was->options, in->options),
	};
}
