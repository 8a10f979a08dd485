/* SPDX-License-Identifier: MIT */
/* control's REST interface, over HTTPS. Where control is, how it is recognised and the operator's
 * token come from options, else from the environment ($KAKUREMICHI_CONTROL, …_CA_FILE, …_PIN,
 * …_TOKEN_FILE), else from ~/.config/kakuremichi/kmctl.conf. */
#ifndef KMCTL_CONTROL_H
#define KMCTL_CONTROL_H

#include "kmctl/flags.h"
#include "libkm/base/err.h"
#include <jansson.h>
#include <stdbool.h>

/* What every table of flags holds whose command speaks with control. */
#define CONTROL_FLAGS                                                                              \
	{.name = "control", .help = "URL of control's REST interface, https://HOST:3000"},         \
	    {.name = "ca-file", .help = "control's root certificate, its root.crt"},               \
	    {.name = "pin", .help = "instead of -ca-file the pin of it, its root.pin"},            \
	{                                                                                          \
		.name = "token-file", .help = "file with the operator's token, mode 0600"          \
	}

/* The settings as they are in force. */
struct control_settings {
	char *control, *ca_file, *pin, *token_file;
};
/* KM_EINVAL with a sentence: a malformed file or value. Free with control_settings_free, also after
 * an error. */
int control_settings_load(struct control_settings *s, struct flag *flags, size_t n,
			  struct km_errtext *err) __attribute__((warn_unused_result));
void control_settings_free(struct control_settings *s);
/* Whether these settings name a control. */
bool control_named(struct flag *flags, size_t n);

struct control;

/* Reads token and root, connects to nothing yet. KM_EINVAL, KM_EIO, KM_EPERM with a sentence. */
int control_open(struct control **out, struct flag *flags, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Accepts NULL. */
void control_close(struct control *c);

/* One request, with a body or NULL. *answer (NULL: not wanted) gets the answer's JSON, NULL where
 * it has none; the caller's. KM_ECLOSED: control cannot be reached or is not who it should be;
 * KM_EAUTH: 401 or 403; KM_ENOTFOUND: 404; KM_EEXIST: 409; KM_EINVAL: 400; KM_EPROTO: anything
 * else; each with a sentence. */
int control_call(struct control *c, const char *method, const char *path, const json_t *body,
		 json_t **answer, struct km_errtext *err) __attribute__((warn_unused_result));
/* Every item of a list, page after page, as an array; path may have a query. Otherwise as control_call. */
int control_list(struct control *c, const char *path, json_t **items, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* text as it stands in a query; malloc'd. */
char *control_escape(struct control *c, const char *text);

/* The one item whose id, or whose text in `field`, is this; borrowed. KM_ENOTFOUND: none,
 * KM_EINVAL: several; `what` is e.g. "agent". */
int control_pick(const json_t *items, const char *field, const char *name, const char *what,
		 const json_t **item, struct km_errtext *err) __attribute__((warn_unused_result));
/* The text of a field, NULL when there is none. */
const char *control_text(const json_t *item, const char *field);

#endif
