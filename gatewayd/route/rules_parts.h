/* SPDX-License-Identifier: MIT */
/* How rules are put together. For rules.c and its parts only. */
#ifndef GATEWAYD_ROUTE_RULES_PARTS_H
#define GATEWAYD_ROUTE_RULES_PARTS_H

#include "gatewayd/route/rules.h"
#include "libkm/base/field.h"
#include <stdio.h>
#include <strings.h>

/* n zeroed bytes that live as long as r; NULL: no memory. */
void *rules_keep(struct route_rules *r, size_t n);
/* A copy of n bytes that lives as long as r, with a NUL behind. KM_ENOMEM. */
int rules_keep_str(struct route_rules *r, struct http_str *out, const char *s, size_t n)
    __attribute__((warn_unused_result));

/* rules_target.c: how the target is spoken to, and the Host that it gets. KM_EINVAL with a
 * sentence, KM_ENOMEM. */
int rules_target(struct route_rules *r, const struct km_msg_tunnel *t,
		 const struct km_msg_tunnel_options *o, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* rules_page.c: the pages of maintenance; m NULL: none. KM_ENOMEM, KM_ETOOBIG. */
int rules_maintenance(struct route_rules *r, const struct km_msg_maintenance *m)
    __attribute__((warn_unused_result));

#endif
