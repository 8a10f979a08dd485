/* SPDX-License-Identifier: MIT */
/* What a host that obeys one trust bundle makes of another. */
#include "libkm/base/util.h"
#include "libkm/cert/bundle.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* How `to` differs from `from`. */
static struct km_bundle_change compare(const struct km_bundle *from, const struct km_bundle *to)
{
	struct km_bundle_change ch = {0};

	for (size_t i = 0; i < to->n_cas; i++)
		ch.cas_added += !km_bundle_find(from, to->cas[i]->fingerprint);
	for (size_t i = 0; i < from->n_cas; i++)
		ch.cas_removed += !km_bundle_find(to, from->cas[i]->fingerprint);
	for (size_t i = 0; i < to->n_blocked; i++)
		ch.blocked += !km_bundle_blocks(from, to->blocked[i]);
	for (size_t i = 0; i < from->n_blocked; i++)
		ch.unblocked += !km_bundle_blocks(to, from->blocked[i]);
	return ch;
}

static bool is_same(const struct km_bundle_change *ch)
{
	return !ch->cas_added && !ch->cas_removed && !ch->blocked && !ch->unblocked;
}

static int copy(struct km_bundle **out, const struct km_bundle *b, struct km_errtext *err)
{
	int rc = km_bundle_new(out, b->number, (const struct km_cert *const *)b->cas, b->n_cas,
			       (const uint8_t(*)[KM_CERT_FP_LEN])b->blocked, b->n_blocked, err);

	if (rc)
		return rc;
	(*out)->is_signed = b->is_signed;
	memcpy((*out)->signer, b->signer, sizeof(b->signer));
	memcpy((*out)->signature, b->signature, sizeof(b->signature));
	(*out)->signature_len = b->signature_len;
	return 0;
}

/* current less the CAs that offered lacks (unless none would be left), plus what offered blocks. */
static int restrict_by(struct km_bundle **out, const struct km_bundle *current,
		       const struct km_bundle *offered, bool keep_cas, struct km_errtext *err)
{
	size_t n_all = current->n_blocked + offered->n_blocked, n_cas = 0;
	const struct km_cert *cas[KM_CERT_POOL_MAX];
	uint8_t(*all)[KM_CERT_FP_LEN] = calloc(n_all ? n_all : 1, KM_CERT_FP_LEN);
	size_t n = current->n_blocked;
	int rc;

	*out = NULL;
	if (!all)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	for (size_t i = 0; i < current->n_cas; i++)
		if (keep_cas || km_bundle_find(offered, current->cas[i]->fingerprint))
			cas[n_cas++] = current->cas[i];
	memcpy(all, current->blocked, n * KM_CERT_FP_LEN);
	for (size_t i = 0; i < offered->n_blocked; i++)
		if (!km_bundle_blocks(current, offered->blocked[i]))
			memcpy(all[n++], offered->blocked[i], KM_CERT_FP_LEN);
	rc = km_bundle_new(out, current->number, cas, n_cas, (const uint8_t(*)[KM_CERT_FP_LEN])all,
			   n, err);
	free(all);
	return rc;
}

/* A bundle that may only take away; err says why. */
static int accept_removals(const struct km_bundle *current, const struct km_bundle *offered,
			   const struct km_bundle_change *wanted, struct km_bundle **merged,
			   struct km_bundle_change *change, struct km_errtext *err)
{
	bool none_left = wanted->cas_removed == current->n_cas;
	struct km_errtext reason = {""};
	int rc;

	if (err)
		reason = *err;
	rc = restrict_by(merged, current, offered, none_left, err);
	if (rc || !*merged)
		return rc;
	*change = compare(current, *merged);
	change->refused = wanted->cas_added + wanted->unblocked;
	if (is_same(change)) {
		km_bundle_free(*merged);
		*merged = NULL;
	}
	if (none_left)
		return km_errtext_set(err, KM_EPERM,
				      "trust bundle %" PRIu64 " would leave no trusted CA: all %zu "
				      "stay (%.200s)",
				      offered->number, current->n_cas, reason.text);
	if (change->refused)
		return km_errtext_set(err, KM_EAUTH,
				      "%.200s: %zu CAs not added, %zu certificates not unblocked",
				      reason.text, wanted->cas_added, wanted->unblocked);
	return 0;
}

int km_bundle_accept(const struct km_bundle *current, const struct km_bundle *offered,
		     struct km_cert_when when, struct km_bundle **merged,
		     struct km_bundle_change *change, struct km_errtext *err)
{
	struct km_bundle_change unused, wanted;
	int rc;

	*merged = NULL;
	if (!change)
		change = &unused;
	*change = (struct km_bundle_change){0};
	if (!current) {
		change->cas_added = offered->n_cas;
		change->blocked = offered->n_blocked;
		return copy(merged, offered, err);
	}
	if (offered->number < current->number)
		return km_errtext_set(err, KM_EINVAL,
				      "trust bundle %" PRIu64 " is older than %" PRIu64
				      ", which is obeyed here",
				      offered->number, current->number);
	wanted = compare(current, offered);
	rc = km_bundle_check(offered, current, when, err);
	if (rc == KM_ENOMEM)
		return rc;
	if (rc)
		return accept_removals(current, offered, &wanted, merged, change, err);
	if (offered->number == current->number) {
		if (is_same(&wanted))
			return 0;
		return km_errtext_set(err, KM_EEXIST,
				      "trust bundle %" PRIu64 " is known with other content",
				      offered->number);
	}
	*change = wanted;
	return copy(merged, offered, err);
}
