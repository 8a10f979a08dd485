/* SPDX-License-Identifier: MIT */
/* The command `gatewayd certificates`: what there is, what comes from elsewhere, and what to
 * publish. */
#ifndef GATEWAYD_CERTIFICATES_H
#define GATEWAYD_CERTIFICATES_H

#include "gatewayd/settings.h"

/* argv[0] is "certificates"; see gatewayd(8). Needs no running gateway. Gives the exit status: 0, 1
 * (something was left out or failed; standard error says what), 2 (usage, or mistakes in the
 * settings). */
int certificates_main(int argc, char **argv);

/* `list`: every certificate of the operator's and every obtained one, or only those of the n
 * domains. */
int certificates_list(const struct gw_settings *s, char *const *domains, size_t n);

struct certificates_import {
	bool force; /* also in place of one that lasts longer, or of a symbolic link */
	bool dry;   /* only say what would be done */
};
/* `import`: see certificates_import.c. */
int certificates_import(const struct gw_settings *s, char *const *paths, size_t n,
			const struct certificates_import *how);

/* `account`: the account's URL, and the CAA records that let only it obtain certificates for the
 * domains. */
int certificates_account(const struct gw_settings *s, char *const *domains, size_t n);

#endif
