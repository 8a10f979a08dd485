/* SPDX-License-Identifier: MIT */
/* The values of recorded.txt, which recorded.py prints. Tests run in the source folder. */
#ifndef KM_TESTS_UNIT_WG_RECORDED_H
#define KM_TESTS_UNIT_WG_RECORDED_H

#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The value called name, which must have exactly n bytes. */
static inline void recorded(const char *name, void *out, size_t n)
{
	char line[4096], *value;
	FILE *f = fopen("tests/unit/wg/recorded.txt", "re");
	int rc = -1;

	while (f != NULL && rc != 0 && fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = 0;
		value = strchr(line, ' ');
		if (value == NULL)
			break;
		*value++ = 0;
		if (strcmp(line, name) == 0 && (rc = km_unhex(out, n, value)) != 0)
			break;
	}
	if (f == NULL || rc != 0) {
		fprintf(stderr, "recorded.txt: no %s of %zu bytes\n", name, n);
		abort();
	}
	fclose(f);
}

#endif
