/* SPDX-License-Identifier: MIT */
#include "libkm/uplink/revoked.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/host/kept.h"
#include <stdlib.h>

#define KEPT "gateways' certificates"

struct km_revoked {
	char *file;
	json_t *known; /* id -> [fingerprint, …] */
	bool changed;
};

struct km_revoked *km_revoked_new(const char *state_dir)
{
	struct km_revoked *r = km_xcalloc(1, sizeof(*r));

	r->file = km_xasprintf("%s/gateways.json", state_dir);
	r->known = km_kept_read(r->file, KEPT);
	return r;
}

void km_revoked_free(struct km_revoked *r)
{
	if (!r)
		return;
	json_decref(r->known);
	free(r->file);
	free(r);
}

void km_revoked_saw(struct km_revoked *r, const struct km_trust *trust, const char *id)
{
	uint8_t fp[2][KM_CERT_FP_LEN];
	char text[2][KM_CERT_FP_STRLEN];
	json_t *is;

	if (!km_trust_fingerprints(trust, true, false, id, fp))
		return;
	km_hex(fp[0], KM_CERT_FP_LEN, text[0]);
	km_hex(fp[1], KM_CERT_FP_LEN, text[1]);
	is = json_pack("[s, s]", text[0], text[1]);
	if (!is || json_equal(is, json_object_get(r->known, id))) {
		json_decref(is);
		return;
	}
	if (json_object_size(r->known) >= KM_REVOKED_MAX && !json_object_get(r->known, id))
		json_object_del(r->known, json_object_iter_key(json_object_iter(r->known)));
	json_object_set_new(r->known, id, is);
	r->changed = true;
}

void km_revoked_save(struct km_revoked *r)
{
	if (r->changed)
		r->changed = !km_kept_write(r->file, r->known, KEPT);
}

static bool blocked(const struct km_trust *trust, const json_t *fingerprints)
{
	uint8_t fp[KM_CERT_FP_LEN];
	const json_t *f;
	size_t i;

	json_array_foreach(fingerprints, i, f)
	{
		if (json_is_string(f) && !km_cert_fp_parse(fp, json_string_value(f)) &&
		    km_trust_blocks(trust, fp))
			return true;
	}
	return false;
}

void km_revoked_look(struct km_revoked *r, const struct km_trust *trust,
		     void (*told)(void *arg, const char *gateway_id), void *arg)
{
	const char *id;
	json_t *is;
	void *next;

	json_object_foreach_safe(r->known, next, id, is)
	{
		if (!km_uuid_ok(id) || !blocked(trust, is))
			continue;
		km_warn("gateway revoked", km_ks("gateway", id));
		told(arg, id);
		json_object_del(r->known, id);
		r->changed = true;
	}
	km_revoked_save(r);
}
