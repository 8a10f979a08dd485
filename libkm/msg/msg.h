/* SPDX-License-Identifier: MIT */
/* The messages of the control protocol as C structs, and their JSON form (jansson values; the
 * envelope {"type", "data"} belongs to libkm/link). Everything comes from messages.def. */
#ifndef KM_MSG_MSG_H
#define KM_MSG_MSG_H

#include "libkm/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define S(name) struct km_msg_##name {
#define E(name) };
#define STR(s, f, j, r, max) char *f;
#define UUID(s, f, j, r) char *f;
#define KEY(s, f, j, r) char *f;
#define TIME(s, f, j, r) char *f;
#define PREFIX(s, f, j, r) char *f;
#define ADDR(s, f, j, r) char *f;
#define ENUM(s, f, j, r, c) char *f;
#define INT(s, f, j, r, lo, hi)                                                                    \
	int64_t f;                                                                                 \
	bool has_##f;
#define BOOL(s, f, j, r)                                                                           \
	bool f;                                                                                    \
	bool has_##f;
#define STRS(s, f, j, r, max, maxn)                                                                \
	char **f;                                                                                  \
	size_t n_##f;
#define OBJ(s, f, j, r, sub) struct km_msg_##sub *f;
#define OBJS(s, f, j, r, sub, maxn)                                                                \
	struct km_msg_##sub *f;                                                                    \
	size_t n_##f;
#define M(from, type, name)
#include "libkm/msg/messages.def"
#include "libkm/msg/undef.h"

/* The shape of each struct, for the generic functions below: km_msg_desc_NAME. */
struct km_msg_desc;
#define S(name) extern const struct km_msg_desc km_msg_desc_##name;
#include "libkm/msg/only_s.h"
#include "libkm/msg/messages.def"
#include "libkm/msg/undef.h"

/* Reads the JSON object v into *out (zeroed first). KM_EINVAL with a sentence that names the field
 * by its path ("tunnels[3].domain: longer than 253 bytes"), or KM_ENOMEM; *out then holds nothing to
 * free. A null counts as absent. */
int km_msg_parse(const struct km_msg_desc *d, void *out, const json_t *v, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The JSON form; absent fields are left out, required ones always there. NULL: no memory, or a
 * string that is not UTF-8. */
json_t *km_msg_format(const struct km_msg_desc *d, const void *in);
/* Frees what the struct owns and zeroes it; the struct itself is the caller's. */
void km_msg_clear(const struct km_msg_desc *d, void *m);
/* A deep copy into *out. KM_ENOMEM. */
int km_msg_copy(const struct km_msg_desc *d, void *out, const void *in)
    __attribute__((warn_unused_result));
/* Whether two are equal in every field. */
bool km_msg_equal(const struct km_msg_desc *d, const void *a, const void *b);

enum km_msg_from { KM_MSG_FROM_CLIENT, KM_MSG_FROM_CONTROL };
/* The struct of a message by its type on the wire; NULL: unknown, or not sent by that side. */
const struct km_msg_desc *km_msg_find(enum km_msg_from from, const char *type);
/* The JSON Schema (2020-12) of a message's data. The caller owns it. */
json_t *km_msg_schema(const struct km_msg_desc *d);

#endif
