/* SPDX-License-Identifier: MIT */
/* How msg.c describes a struct to itself: the tables that messages.def becomes. Only for files of
 * this folder. */
#ifndef KM_MSG_DESC_H
#define KM_MSG_DESC_H

#include "libkm/msg/msg.h"

enum kind {
	KIND_STR,
	KIND_UUID,
	KIND_KEY,
	KIND_TIME,
	KIND_PREFIX,
	KIND_ADDR,
	KIND_ENUM,
	KIND_INT,
	KIND_BOOL,
	KIND_STRS,
	KIND_OBJ,
	KIND_OBJS,
};

/* Kinds up to KIND_ENUM are one char *. */
struct field {
	const char *json;
	enum kind kind;
	bool required;
	size_t off;          /* of the value in the struct */
	size_t extra;        /* of has_FIELD or n_FIELD */
	int64_t min, max;    /* of a number; max also: bytes of a string */
	size_t max_n;        /* elements of an array */
	const char *choices; /* KIND_ENUM: "a|b|c" */
	const struct km_msg_desc *sub;
};

struct km_msg_desc {
	const char *name;
	size_t size;
	const struct field *fields;
	size_t n_fields;
};

#endif
