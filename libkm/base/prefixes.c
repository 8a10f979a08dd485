/* SPDX-License-Identifier: MIT */
#include "libkm/base/prefixes.h"
#include <stdlib.h>

int km_prefixes_of(struct km_prefixes *p, const struct km_strlist *words)
{
	*p = (struct km_prefixes){0};
	if (!words->n)
		return 0;
	if (!(p->items = calloc(words->n, sizeof(*p->items))))
		return KM_ENOMEM;
	for (size_t i = 0; i < words->n; i++) {
		if (km_prefix_parse(&p->items[p->n++], words->items[i])) {
			km_prefixes_free(p);
			return KM_EINVAL;
		}
	}
	return 0;
}

bool km_prefixes_have(const struct km_prefixes *p, const struct km_addr *a)
{
	for (size_t i = 0; i < p->n; i++)
		if (km_prefix_has(&p->items[i], a))
			return true;
	return false;
}

void km_prefixes_free(struct km_prefixes *p)
{
	free(p->items);
	*p = (struct km_prefixes){0};
}

const char *km_prefix_check(const char *value)
{
	struct km_prefix p;
	return km_prefix_parse(&p, value) ? "not an address or a prefix such as 192.0.2.0/24" : NULL;
}
