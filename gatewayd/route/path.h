/* SPDX-License-Identifier: MIT */
/* Paths as tunnels have them, and how a request's path is compared with them. Sans-I/O, no
 * allocation.
 *
 * A tunnel's path fits a request's path that is the same or goes on with '/'. It is compared with
 * the bytes as they were sent, since these are what the target gets. But targets do not all read
 * "/api/..%2fadmin" in the same way: some decode, some remove "..", some merge "//", some cut
 * parameters off, some take '\' for '/'. So a path that could be read in several ways is read in
 * all of them (route_path_views, route_path_view), and a request for which two readings lead to
 * different tunnels has no answer but 400. */
#ifndef GATEWAYD_ROUTE_PATH_H
#define GATEWAYD_ROUTE_PATH_H

#include <stdbool.h>
#include <stddef.h>

#define ROUTE_PATH_MAX 1024                  /* bytes of a tunnel's path */
#define ROUTE_PATH_VIEW (ROUTE_PATH_MAX + 8) /* bytes of a reading */

/* Whether s can be a tunnel's path: "/", or segments that are not empty, "." or "..", of the bytes
 * that RFC 3986 (section 3.3) allows in them but ';', percent-encoded only where it must be, in
 * upper case, and never
 * '/', '\' or NUL; no '/' at the end. So it is the same in every reading. */
bool route_path_ok(const char *s);

/* Whether the path of n bytes is the prefix of len bytes or goes on behind it with '/'. */
bool route_path_under(const char *p, size_t n, const char *prefix, size_t len);

/* The bytes before '?'. */
size_t route_path_len(const char *target, size_t n);

/* Which liberties a reader could take with this path. */
enum {
	ROUTE_VIEW_SLASH = 1,  /* %2F, %5C and '\' are '/' */
	ROUTE_VIEW_MERGE = 2,  /* "//" is "/" */
	ROUTE_VIEW_PARAMS = 4, /* ";x=1" at the end of a segment is not of the path */
	ROUTE_VIEW_PLAIN = 8,  /* none of these, but escapes that need not be, or dot segments */
};
/* 0: there is one reading, the bytes themselves. Else which of the above matter. */
unsigned route_path_views(const char *p, size_t n);

/* One reading: escapes of unreserved bytes decoded, others in upper case, dot segments removed, and
 * what `view` says. Returns its length; of a longer one only the segments are there that end within
 * ROUTE_PATH_MAX, with a '/' behind, which is enough to compare it with a tunnel's path. */
size_t route_path_view(char out[static ROUTE_PATH_VIEW], const char *p, size_t n, unsigned view);

#endif
