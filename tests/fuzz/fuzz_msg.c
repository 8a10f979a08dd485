/* SPDX-License-Identifier: MIT */
/* The first byte picks a message, the rest is its data as JSON text. What is taken must survive
 * formatting, parsing again and copying unchanged. */
#include "libkm/base/util.h"
#include "libkm/msg/msg.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const struct km_msg_desc *const descs[] = {
    &km_msg_desc_auth,         &km_msg_desc_heartbeat,  &km_msg_desc_config_ack,
    &km_msg_desc_status,       &km_msg_desc_config,     &km_msg_desc_change,
    &km_msg_desc_auth_success, &km_msg_desc_auth_error, &km_msg_desc_certificate_obtained,
    &km_msg_desc_error,
};

/* Every struct of the table is smaller. */
union any {
	max_align_t align;
	char bytes[1024];
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void round_trip(const struct km_msg_desc *d, const union any *m)
{
	json_t *v = km_msg_format(d, m);
	struct km_errtext err;
	union any again, copy;

	must(v);
	must(!km_msg_parse(d, &again, v, &err));
	must(km_msg_equal(d, m, &again));
	must(!km_msg_copy(d, &copy, &again));
	must(km_msg_equal(d, m, &copy));
	km_msg_clear(d, &again);
	km_msg_clear(d, &copy);
	json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const struct km_msg_desc *d;
	struct km_errtext err = {""};
	union any m;
	json_t *v;

	if (!n)
		return 0;
	d = descs[p[0] % KM_ARRAY_LEN(descs)];
	v = json_loadb((const char *)p + 1, n - 1, JSON_REJECT_DUPLICATES, NULL);
	if (v && !km_msg_parse(d, &m, v, &err)) {
		round_trip(d, &m);
		km_msg_clear(d, &m);
	} else if (v) {
		must(err.text[0]);
	}
	json_decref(v);
	return 0;
}
