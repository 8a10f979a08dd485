/* SPDX-License-Identifier: MIT */
#include "controld/api/place.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- paths ---- */

static bool unreserved(unsigned char c)
{
	return isalnum(c) || strchr("-._~", c);
}

/* What a segment may hold as it is (pchar). */
static bool plain(unsigned char c)
{
	return c < 0x80 && (unreserved(c) || strchr("!$&'()*+,;=:@", c));
}

static int hex(char c)
{
	const char digits[] = "0123456789abcdef";
	const char *p = c ? strchr(digits, tolower((unsigned char)c)) : NULL;
	return p ? (int)(p - digits) : -1;
}

/* One byte of a path: its value, and how much of in it takes. */
static int path_byte(unsigned char *c, bool *encoded, const char *in, struct km_errtext *err)
{
	*encoded = in[0] == '%';
	*c = (unsigned char)in[0];
	if (!*encoded)
		return 1;
	int hi = hex(in[1]), lo = hi < 0 ? -1 : hex(in[2]);
	if (lo < 0)
		return km_errtext_set(err, KM_EINVAL,
				      "has a '%%' that two hexadecimal digits do not follow");
	*c = (unsigned char)(hi << 4 | lo);
	if (*c < 0x20 || *c == 0x7f || *c == '/' || *c == '\\')
		return km_errtext_set(err, KM_EINVAL, "may not hold %%%02X", *c);
	return 3;
}

static int path_write(char *out, const char *in, struct km_errtext *err)
{
	size_t n = 0;
	while (*in) {
		unsigned char c;
		bool encoded;
		int taken = path_byte(&c, &encoded, in, err);
		if (taken < 0)
			return taken;
		in += taken;
		if (!encoded && (c == '?' || c == '#'))
			return km_errtext_set(err, KM_EINVAL,
					      "must be a path alone, without query and fragment");
		if (!encoded && (c <= ' ' || c == 0x7f || c == '\\'))
			return km_errtext_set(
			    err, KM_EINVAL, "may hold neither blanks, control characters nor '\\'");
		bool keep = encoded ? unreserved(c) && c < 0x80 : plain(c) || c == '/';
		if (n + (keep ? 1 : 3) >= PLACE_PATH_STRLEN)
			return km_errtext_set(err, KM_EINVAL, "is longer than %d bytes",
					      PLACE_PATH_STRLEN - 1);
		n += (size_t)sprintf(out + n, keep ? "%c" : "%%%02X", c);
	}
	out[n] = '\0';
	return 0;
}

static int check_segments(const char *path, struct km_errtext *err)
{
	for (const char *p = path; *p;) {
		size_t n = strcspn(++p, "/");
		if (n == 0 && p[0])
			return km_errtext_set(err, KM_EINVAL, "may not hold \"//\"");
		if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return km_errtext_set(err, KM_EINVAL,
					      "may not have \".\" or \"..\" as a segment");
		p += n;
	}
	return 0;
}

int place_path(char out[static PLACE_PATH_STRLEN], const char *in, struct km_errtext *err)
{
	if (in[0] != '/')
		return km_errtext_set(err, KM_EINVAL, "must begin with \"/\"");
	int rc = path_write(out, in, err);
	return rc ? rc : check_segments(out, err);
}

int place_tunnel_path(char out[static PLACE_PATH_STRLEN], const char *in, struct km_errtext *err)
{
	int rc = place_path(out, in, err);
	if (rc)
		return rc;
	if (strchr(out, ';'))
		return km_errtext_set(
		    err, KM_EINVAL, "may not hold ';', which some servers take for the path's end");
	size_t n = strlen(out);
	if (out[n - 1] == '/')
		out[n - 1] = '\0';
	return 0;
}

bool place_path_below(const char *path, const char *prefix)
{
	size_t n = strlen(prefix);
	return strncmp(path, prefix, n) == 0 && (!path[n] || path[n] == '/');
}

/* ---- targets ---- */

static const struct scheme {
	const char *name, *port;
} schemes[] = {{"http", "80"}, {"h2c", "80"}, {"https", "443"}};

/* "SCHEME://authority[/]": the authority, with the scheme's port when it has none. */
static int from_url(struct place_target *out, const char *in, const char *rest,
		    struct km_errtext *err)
{
	const struct scheme *s = NULL;
	size_t n = (size_t)(rest - in), len = strcspn(rest + 3, "/?#");
	const char *at = rest + 3, *tail = at + len;
	for (size_t i = 0; i < KM_ARRAY_LEN(schemes); i++)
		if (strlen(schemes[i].name) == n && strncasecmp(schemes[i].name, in, n) == 0)
			s = &schemes[i];
	if (!s)
		return km_errtext_set(
		    err, KM_EINVAL, "a URL's protocol must be http, https or h2c: \"%.300s\"", in);
	if (tail[0] && strcmp(tail, "/") != 0)
		return km_errtext_set(err, KM_EINVAL,
				      "a target has neither path nor query: \"%.300s\"", in);
	if (memchr(at, '@', len))
		return km_errtext_set(err, KM_EINVAL,
				      "a target has no user and no password; a requestHeaders rule "
				      "for Authorization gives them");
	if (len == 0 || len + sizeof(":443") > sizeof(out->address))
		return km_errtext_set(err, KM_EINVAL, "a target names a host of at most 253 bytes");
	const char *colon = memrchr(at, ':', len);
	bool has_port = colon && !memchr(colon, ']', (size_t)(tail - colon));
	snprintf(out->address, sizeof(out->address), "%.*s%s%s", (int)len, at, has_port ? "" : ":",
		 has_port ? "" : s->port);
	out->protocol = s->name;
	return 0;
}

int place_target(struct place_target *out, const char *in, struct km_errtext *err)
{
	struct km_target t;
	const char *rest = strstr(in, "://");
	out->protocol = NULL;
	if (rest && strncmp(in, "unix:", 5) != 0) {
		int rc = from_url(out, in, rest, err);
		if (rc)
			return rc;
	} else if (strlen(in) >= sizeof(out->address)) {
		return km_errtext_set(err, KM_EINVAL, "is longer than %d bytes",
				      PLACE_TARGET_STRLEN - 1);
	} else {
		strcpy(out->address, in);
	}
	int rc = km_target_parse(&t, out->address, err);
	if (rc == 0 && !t.is_unix && !t.hp.host[0])
		rc = km_errtext_set(err, KM_EINVAL,
				    "must name a host: host:port, https://host:port or unix:/path");
	return rc;
}
