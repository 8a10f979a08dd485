/* SPDX-License-Identifier: MIT */
/* A few prefixes, as a setting lists them. */
#ifndef KM_BASE_PREFIXES_H
#define KM_BASE_PREFIXES_H

#include "libkm/base/addr.h"
#include "libkm/base/conf.h"

struct km_prefixes {
	struct km_prefix *items;
	size_t n;
};

/* What each word of the setting's list says. KM_EINVAL (one is none), KM_ENOMEM; *p is empty then. */
int km_prefixes_of(struct km_prefixes *p, const struct km_strlist *words)
    __attribute__((warn_unused_result));
/* Whether one of them has this address. */
bool km_prefixes_have(const struct km_prefixes *p, const struct km_addr *a);
void km_prefixes_free(struct km_prefixes *p);

/* NULL, or what is wrong with a prefix; fit as the check of a setting. */
const char *km_prefix_check(const char *value);

#endif
