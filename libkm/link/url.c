/* SPDX-License-Identifier: MIT */
#include "libkm/link/url.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool has_port(const char *host)
{
	const char *colon = strrchr(host, ':'), *bracket = strrchr(host, ']');

	return colon && (!bracket || colon > bracket);
}

int km_link_url_parse(struct km_link_url *u, const char *s, struct km_errtext *err)
{
	char host[272];
	const char *p = s, *end;
	int r;

	*u = (struct km_link_url){0};
	if (strncasecmp(s, "wss://", 6) == 0) {
		u->tls = true;
		p += 6;
	} else if (strncasecmp(s, "ws://", 5) == 0) {
		p += 5;
	} else {
		return km_errtext_set(err, KM_EINVAL, "control '%.200s': must begin with wss://",
				      s);
	}
	end = p + strcspn(p, "/?#");
	if (*end && strcmp(end, "/") != 0 && strcmp(end, "/ws") != 0)
		return km_errtext_set(err, KM_EINVAL,
				      "control '%.200s': '%.80s' after the port; "
				      "wss://HOST:3001 is all that is needed",
				      s, end);
	if (strlen(s) >= sizeof(u->text) || (size_t)(end - p) >= sizeof(host) - 8 || end == p)
		return km_errtext_set(err, KM_EINVAL, "control '%.200s': no host, or too long", s);
	snprintf(host, sizeof(host), "%.*s", (int)(end - p), p);
	if (!has_port(host))
		strcat(host, ":3001");
	r = km_hostport_parse(&u->hp, host, err);
	if (r)
		return r;
	if (!u->hp.host[0])
		return km_errtext_set(err, KM_EINVAL, "control '%.200s': no host", s);
	if (!u->tls && !(u->hp.is_addr ? km_addr_is_loopback(&u->hp.addr)
				       : strcasecmp(u->hp.host, "localhost") == 0))
		return km_errtext_set(err, KM_EINVAL,
				      "control '%.200s': ws:// without TLS is for "
				      "loopback only; use wss://",
				      s);
	strcpy(u->text, s);
	return 0;
}

const char *km_link_url_check(const char *value)
{
	struct km_link_url u;
	struct km_errtext err;

	return km_link_url_parse(&u, value, &err)
		   ? "not wss://HOST:PORT (or ws:// to a loopback address)"
		   : NULL;
}
