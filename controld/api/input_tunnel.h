/* SPDX-License-Identifier: MIT */
/* Bodies of requests that make or change a tunnel. Sans-I/O. */
#ifndef CONTROLD_API_INPUT_TUNNEL_H
#define CONTROLD_API_INPUT_TUNNEL_H

#include "controld/api/input.h"
#include "controld/api/options.h"
#include "controld/api/place.h"

/* What a request says; strings that are pointers are borrowed from the body. */
struct tunnel_input {
	bool has_domain, has_path, has_enabled, has_description, has_options;
	char domain[DOMAIN_STRLEN];
	char path[PLACE_PATH_STRLEN];          /* "": the whole domain */
	char target[PLACE_TARGET_STRLEN];      /* "": not said */
	const char *agent_id, *protocol, *tls; /* NULL: not said; protocol: the target's */
	bool enabled;                          /* true when not said */
	const char *description;               /* "" when not said */
	/* In the stored form, null for what is to be taken away; with has_options NULL: all is. */
	json_t *options;
};
void input_tunnel_clear(struct tunnel_input *in);

/* Takes the short form {domain, path, agentId, target, targetProtocol, …} and of the full form
 * {match, targets, …} what exists today: one match of a domain and a path over http, one target. As
 * the other input_* functions, but *out is always to be cleared. */
int input_tunnel(struct tunnel_input *out, const json_t *body, bool create, struct details *d)
    __attribute__((warn_unused_result));

/* What the tunnel is to be: what `in` says, else what it was (NULL: it is new). Borrows from both;
 * options is new and belongs to the caller. */
struct options_tunnel input_tunnel_whole(const struct tunnel_input *in,
					 const struct options_tunnel *was);

#endif
