/* SPDX-License-Identifier: MIT */
#include "libkm/wg/internal.h"
#include <stdlib.h>
#include <string.h>

int km_wg_peer_set(struct km_wg_device *d, const struct km_wg_peer *p)
{
	struct km_wg_change c;
	int rc;

	if (!km_wg_known_change(d->known, p, &c))
		return 0;
	rc = d->ops->change(d, &c);
	if (!rc)
		km_wg_known_set(d->known, p);
	return rc;
}

int km_wg_peer_remove(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN])
{
	int rc = d->ops->remove(d, key);

	if (!rc)
		km_wg_known_remove(d->known, key);
	return rc;
}

static int compare_keys(const void *a, const void *b)
{
	return memcmp(a, b, KM_WG_KEY_LEN);
}

int km_wg_peers_keep(struct km_wg_device *d, uint8_t (*keys)[KM_WG_KEY_LEN], size_t n)
{
	uint8_t(*now)[KM_WG_KEY_LEN] = NULL;
	size_t n_now = km_wg_known_keys(d->known, &now);
	int rc = 0;

	if (n)
		qsort(keys, n, KM_WG_KEY_LEN, compare_keys);
	for (size_t i = 0; !rc && i < n_now; i++)
		if (!n || !bsearch(now[i], keys, n, KM_WG_KEY_LEN, compare_keys))
			rc = km_wg_peer_remove(d, now[i]);
	free(now);
	return rc;
}

/* ---- what somebody else has changed ---- */

struct mending {
	struct km_wg_device *d;
	km_wg_mended_fn *mended;
	void *arg;
	int rc; /* the first error */
};

static void done(struct mending *m, const uint8_t *key, const char *what, int rc)
{
	if (!rc)
		m->mended(m->arg, key, what);
	else if (!m->rc)
		m->rc = rc;
}

int km_wg_mend(struct km_wg_device *d, const struct km_wg_peer_status *list, size_t n,
	       km_wg_mended_fn *mended, void *arg)
{
	struct mending m = {d, mended, arg, 0};
	struct km_wg_change c;

	/* First what takes allowed IPs away from the others. */
	for (size_t i = 0; i < n; i++)
		if (!km_wg_known_has(d->known, list[i].key))
			done(&m, list[i].key, "unknown", d->ops->remove(d, list[i].key));
	km_wg_known_look(d->known);
	for (size_t i = 0; i < n; i++)
		if (km_wg_known_differs(d->known, &list[i], &c))
			done(&m, c.key, "changed", d->ops->change(d, &c));
	while (km_wg_known_missing(d->known, &c))
		done(&m, c.key, "missing", d->ops->change(d, &c));
	return m.rc;
}
