/* SPDX-License-Identifier: MIT */
/* A request's path against tunnels' paths: whatever it is, the tunnel that it leads to is the one
 * that every reading of it leads to, and a reading of a reading is itself. */
#include "gatewayd/route/path.h"
#include "libkm/base/util.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void no_dot_segments(const char *s, size_t n)
{
	for (size_t i = 0, from = 1; i <= n; i++) {
		if (i < n && s[i] != '/')
			continue;
		size_t len = i > from ? i - from : 0;
		must(!(len == 1 && s[from] == '.') &&
		     !(len == 2 && s[from] == '.' && s[from + 1] == '.'));
		from = i + 1;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	char *path = malloc(n + 1), one[ROUTE_PATH_VIEW], two[ROUTE_PATH_VIEW];
	path[0] = '/';
	if (n)
		memcpy(path + 1, p, n);
	n = route_path_len(path, n + 1);
	unsigned views = route_path_views(path, n);
	must(!(views & ~15u));
	for (unsigned v = 0; v < 8; v++) {
		size_t len = route_path_view(one, path, n, v);
		must(len >= 1 && len <= ROUTE_PATH_VIEW && one[0] == '/');
		no_dot_segments(one, len);
		/* A liberty that is not named makes no difference. */
		if (!(v & ~views)) {
			must(len == route_path_view(two, path, n, v | (7 & ~views)));
			must(!memcmp(one, two, len));
		}
		if (!views)
			must(n > ROUTE_PATH_MAX || (len == n && !memcmp(one, path, n)));
		if (len < ROUTE_PATH_MAX && !memchr(one, '%', len)) {
			must(route_path_view(two, one, len, v) == len && !memcmp(one, two, len));
		}
	}
	free(path);
	return 0;
}
