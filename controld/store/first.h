/* SPDX-License-Identifier: MIT */
/* What is written into a new database. Blocking; for the start only, after the migrations. */
#ifndef CONTROLD_STORE_FIRST_H
#define CONTROLD_STORE_FIRST_H

#include "controld/pki/vault.h"
#include "libkm/base/err.h"
#include <libpq-fe.h>

/* Makes the network of the settings the database's. KM_EUNSUPPORTED: it is another one, and there
 * are agents or gateways that have addresses in it already. KM_EIO, KM_ECLOSED. */
int first_network(PGconn *db, const char *network, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* When no administrator has a valid token (a new database, or the last one has expired): makes one,
 * writes it to state_dir/admin.token (0600) and logs where it is. KM_EIO, KM_ECLOSED. */
int first_token(PGconn *db, const struct vault *vault, const char *state_dir,
		struct km_errtext *err) __attribute__((warn_unused_result));

#endif
