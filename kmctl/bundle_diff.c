/* SPDX-License-Identifier: MIT */
#include "kmctl/bundle_diff.h"
#include "libkm/base/table.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

static bool has_ca(const struct km_bundle *b, const uint8_t *fp)
{
	return b && km_bundle_find(b, fp);
}

static bool blocks(const struct km_bundle *b, const uint8_t *fp)
{
	return b && km_bundle_blocks(b, fp);
}

void bundle_diff(struct km_bundle_change *out, const struct km_bundle *previous,
		 const struct km_bundle *next)
{
	memset(out, 0, sizeof(*out));
	for (size_t i = 0; i < next->n_cas; i++)
		out->cas_added += !has_ca(previous, next->cas[i]->fingerprint);
	for (size_t i = 0; i < next->n_blocked; i++)
		out->blocked += !blocks(previous, next->blocked[i]);
	for (size_t i = 0; previous && i < previous->n_cas; i++)
		out->cas_removed += !has_ca(next, previous->cas[i]->fingerprint);
	for (size_t i = 0; previous && i < previous->n_blocked; i++)
		out->unblocked += !blocks(next, previous->blocked[i]);
}

static void show_ca(char sign, const struct km_cert *ca, FILE *to)
{
	char fp[KM_CERT_FP_STRLEN], end[KM_ISO8601_LEN], until[KM_WHEN_LEN];
	char *name = km_plain(ca->name);

	fprintf(to, "  %c CA %s\n       \"%s\", valid to %s\n", sign, km_cert_fp_str(ca, fp), name,
		km_when(km_iso8601(ca->not_after * 1000, end), km_wall_ms(), until));
	free(name);
}

static void show_blocked(char sign, const uint8_t *fp, FILE *to)
{
	char hex[KM_CERT_FP_STRLEN];

	fprintf(to, "  %c refused: certificate %s\n", sign, km_hex(fp, KM_CERT_FP_LEN, hex));
}

void bundle_diff_show(const struct km_bundle *previous, const struct km_bundle *next, FILE *to)
{
	struct km_bundle_change d;

	bundle_diff(&d, previous, next);
	if (previous)
		fprintf(to, "Trust bundle %llu, after %llu, which was signed last:\n",
			(unsigned long long)next->number, (unsigned long long)previous->number);
	else
		fprintf(to, "Trust bundle %llu, the first that is signed:\n",
			(unsigned long long)next->number);
	for (size_t i = 0; i < next->n_cas; i++)
		show_ca(has_ca(previous, next->cas[i]->fingerprint) ? '=' : '+', next->cas[i], to);
	for (size_t i = 0; previous && i < previous->n_cas; i++)
		if (!has_ca(next, previous->cas[i]->fingerprint))
			show_ca('-', previous->cas[i], to);
	for (size_t i = 0; i < next->n_blocked; i++)
		if (!blocks(previous, next->blocked[i]))
			show_blocked('+', next->blocked[i], to);
	for (size_t i = 0; previous && i < previous->n_blocked; i++)
		if (!blocks(next, previous->blocked[i]))
			show_blocked('-', previous->blocked[i], to);
	if (next->n_blocked > d.blocked)
		fprintf(to, "  = %zu certificates are refused as before\n",
			next->n_blocked - d.blocked);
}
