/* SPDX-License-Identifier: MIT */
/* What one trust bundle has in place of another, for people. No I/O but the printing. */
#ifndef KMCTL_BUNDLE_DIFF_H
#define KMCTL_BUNDLE_DIFF_H

#include "libkm/cert/bundle.h"
#include <stdio.h>

/* Counts what `next` adds and takes away; previous NULL: everything is added. */
void bundle_diff(struct km_bundle_change *out, const struct km_bundle *previous,
		 const struct km_bundle *next);
/* Writes number, every CA ("+" new, "-" gone, "=" kept), and each fingerprint that is blocked now
 * or no longer. */
void bundle_diff_show(const struct km_bundle *previous, const struct km_bundle *next, FILE *to);

#endif
