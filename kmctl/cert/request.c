/* SPDX-License-Identifier: MIT */
#include "kmctl/cert/request.h"
#include "libkm/base/table.h"
#include "libkm/cert/pool.h"
#include <stdlib.h>
#include <string.h>

#define EARLY_S 3600 /* hosts' clocks differ */

static const char name_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";

static const char *text_of(const json_t *item, const char *field)
{
	const char *s = json_string_value(json_object_get(item, field));

	return s ? s : "";
}

static int bad(struct km_errtext *err, const char *field, const char *value)
{
	char *shown = km_plain(value);

	km_errtext_set(err, KM_EINVAL, "a request whose %s is \"%.80s\"", field, shown);
	free(shown);
	return KM_EINVAL;
}

/* A word of these characters, copied. */
static int word(char *out, size_t max, const json_t *item, const char *field,
		struct km_errtext *err)
{
	const char *s = text_of(item, field);
	size_t n = strlen(s);

	if (!n || n > max || strspn(s, name_chars) != n)
		return bad(err, field, s);
	memcpy(out, s, n + 1);
	return 0;
}

/* The only text of a list, or NULL when the list is empty. */
static int only(const char **out, const json_t *item, const char *field, struct km_errtext *err)
{
	const json_t *list = json_object_get(item, field);

	*out = NULL;
	if (!json_is_array(list) || json_array_size(list) > 1)
		return km_errtext_set(err, KM_EINVAL, "a request with several %s, or none", field);
	if (json_array_size(list) == 0)
		return 0;
	*out = json_string_value(json_array_get(list, 0));
	return *out ? 0 : bad(err, field, "");
}

static int read_places(struct cert_request *r, const json_t *item, struct km_errtext *err)
{
	const char *network, *subnet;

	if (only(&network, item, "networks", err) || only(&subnet, item, "unsafeNetworks", err))
		return KM_EINVAL;
	if (!network || !strchr(network, '/') || km_prefix_parse(&r->network, network))
		return bad(err, "network", network ? network : "");
	if (!subnet != r->gateway)
		return bad(err, "unsafe network", subnet ? subnet : "");
	if (r->gateway)
		return 0;
	if (!strchr(subnet, '/') || km_prefix_parse(&r->subnet, subnet) ||
	    r->subnet.bits < r->network.bits || !km_prefix_has(&r->subnet, &r->network.addr))
		return bad(err, "unsafe network", subnet);
	return 0;
}

int cert_request_read(struct cert_request *r, const json_t *item, struct km_errtext *err)
{
	const char *kind = text_of(item, "kind"), *group, *at = text_of(item, "requestedAt");
	int64_t ms;

	memset(r, 0, sizeof(*r));
	if (!km_uuid_ok(text_of(item, "id")))
		return bad(err, "id", text_of(item, "id"));
	snprintf(r->id, sizeof(r->id), "%s", text_of(item, "id"));
	if (!km_uuid_ok(text_of(item, "hostId")))
		return bad(err, "host", text_of(item, "hostId"));
	snprintf(r->host, sizeof(r->host), "%s", text_of(item, "hostId"));
	r->gateway = !strcmp(kind, "gateway");
	if (!r->gateway && strcmp(kind, "agent") != 0)
		return bad(err, "kind", kind);
	r->group = r->gateway ? "gateway" : "agent";
	if (word(r->name, REQUEST_NAME_MAX, item, "name", err) ||
	    word(r->reason, REQUEST_REASON_MAX, item, "reason", err))
		return KM_EINVAL;
	if (km_iso8601_parse(&ms, at))
		return bad(err, "time", at);
	km_iso8601(ms, r->requested_at);
	if (only(&group, item, "groups", err))
		return KM_EINVAL;
	if (!group || strcmp(group, r->group) != 0)
		return bad(err, "group", group ? group : "");
	if (km_wg_key_parse(r->key, text_of(item, "wireguardPublicKey")))
		return bad(err, "key", text_of(item, "wireguardPublicKey"));
	km_wg_key_code(r->key, r->code);
	return read_places(r, item, err);
}

/* Whether c says of its host what r asks for. */
static bool same(const struct cert_request *r, const struct km_cert *c, struct km_errtext *err)
{
	const char *differs = NULL;

	if (c->public_key_len != KM_WG_KEY_LEN || memcmp(c->public_key, r->key, KM_WG_KEY_LEN) != 0)
		differs = "another key";
	else if (strcmp(c->name, r->name) != 0)
		differs = "another name";
	else if (c->n_groups != 1 || strcmp(c->groups[0], r->group) != 0)
		differs = "other groups";
	else if (c->n_networks != 1 || !km_prefix_eq(&c->networks[0], &r->network) ||
		 c->n_unsafe_networks != !r->gateway ||
		 (!r->gateway && !km_prefix_eq(&c->unsafe_networks[0], &r->subnet)))
		differs = "other addresses";
	if (differs)
		km_errtext_set(err, KM_EAUTH, "its present certificate has %s", differs);
	return !differs;
}

bool cert_request_renews(const struct cert_request *r, const char *pem, const struct km_cert *ca,
			 struct km_errtext *err)
{
	struct km_cert_pool *pool = km_cert_pool_new();
	struct km_cert *c = NULL;
	size_t left = pem ? strlen(pem) : 0;
	bool yes = false;

	if (!pool || km_cert_pool_add(pool, ca, err))
		km_errtext_set(err, KM_ENOMEM, "no memory");
	else if (!left || km_cert_from_pem(&c, &pem, &left, NULL))
		km_errtext_set(err, KM_EAUTH, "control shows no present certificate of it");
	else if (km_cert_verify(pool, c, KM_CERT_ANY_TIME, NULL))
		km_errtext_set(err, KM_EAUTH, "its present certificate is not by this CA");
	else
		yes = same(r, c, err);
	km_cert_free(c);
	km_cert_pool_free(pool);
	return yes;
}

void cert_request_spec(struct km_cert_spec *spec, const struct cert_request *r,
		       const struct km_cert *ca, int64_t now_s, int64_t duration_s)
{
	*spec = (struct km_cert_spec){.version = ca->version,
				      .curve = KM_CERT_25519,
				      .name = r->name,
				      .networks = &r->network,
				      .n_networks = 1,
				      .unsafe_networks = &r->subnet,
				      .n_unsafe_networks = !r->gateway,
				      .groups = &r->group,
				      .n_groups = 1,
				      .public_key = r->key,
				      .public_key_len = KM_WG_KEY_LEN};
	spec->not_before = now_s - EARLY_S < ca->not_before ? ca->not_before : now_s - EARLY_S;
	if (__builtin_add_overflow(now_s, duration_s, &spec->not_after) ||
	    spec->not_after > ca->not_after)
		spec->not_after = ca->not_after;
}

void cert_request_show(const struct cert_request *r, int64_t not_after, FILE *to)
{
	char network[KM_PREFIX_STRLEN], subnet[KM_PREFIX_STRLEN], end[KM_ISO8601_LEN];
	char asked[KM_WHEN_LEN], until[KM_WHEN_LEN];

	fprintf(to,
		"%s %s\n"
		"  key code  %s\n"
		"  address   %s\n",
		r->group, r->name, r->code, km_prefix_str(&r->network, network));
	if (!r->gateway)
		fprintf(to, "  subnet    %s\n", km_prefix_str(&r->subnet, subnet));
	fprintf(to,
		"  group     %s\n"
		"  reason    %s, asked for on %s\n"
		"  valid to  %s\n",
		r->group, r->reason, km_when(r->requested_at, km_wall_ms(), asked),
		km_when(km_iso8601(not_after * 1000, end), km_wall_ms(), until));
}
