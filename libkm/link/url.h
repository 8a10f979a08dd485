/* SPDX-License-Identifier: MIT */
/* Where control is: "wss://host:port", with "ws://" for loopback. No I/O. */
#ifndef KM_LINK_URL_H
#define KM_LINK_URL_H

#include "libkm/base/addr.h"

struct km_link_url {
	bool tls;
	struct km_hostport hp;
	char text[280]; /* as given */
};
/* The port defaults to 3001; a path must be "" or "/" or "/ws". KM_EINVAL with a sentence. */
int km_link_url_parse(struct km_link_url *u, const char *s, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The check of a setting that holds such a URL: NULL, or what is wrong with it. */
const char *km_link_url_check(const char *value);

#endif
