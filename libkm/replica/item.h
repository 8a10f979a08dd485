/* SPDX-License-Identifier: MIT */
/* The things that a configuration is made of, each with what control wants and what the hooks have
 * taken. Only for files of this folder. */
#ifndef KM_REPLICA_ITEM_H
#define KM_REPLICA_ITEM_H

#include "libkm/base/util.h"
#include "libkm/replica/replica.h"
#include <stdlib.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

/* In the order in which things go; they come in the opposite one. */
enum kind { KIND_TUNNEL, KIND_AGENT, KIND_GATEWAY, KIND_GATEWAY_SELF, KIND_AGENT_SELF };
#define N_KINDS 5
#define SELF "self" /* the key of the one item of the last two */

/* What is fixed for each kind. */
struct kind_info {
	const char *name;
	const struct km_msg_desc *desc;
	size_t size;        /* of its struct */
	size_t max;         /* items in a configuration */
	size_t in_config;   /* offset of its array (or pointer) in struct km_msg_config */
	size_t n_in_config; /* 0: a pointer */
	const char *json;   /* its name in a `config` */
	size_t in_change;   /* offset of its pointer in struct km_msg_change */
};
extern const struct kind_info km_item_kinds[N_KINDS];

/* now: what control wants; NULL: that it goes, but the hook failed. applied: what the hook took
 * last, often the same pointer; NULL: nothing. Never both NULL outside a change. They differ as
 * long as the hook refuses: then error and why (NULL: no memory for it) say what it said last. */
struct item {
	UT_hash_handle hh;
	char id[KM_UUID_STRLEN];
	void *now, *applied;
	int error;
	char *why;
};

/* Frees the item and both structs; accepts NULL. */
void km_item_free(enum kind kind, struct item *item);
/* Wants `now` (taken; NULL: that it goes) from now on, unless it equals what is wanted already:
 * then false. */
bool km_item_want(enum kind kind, struct item *item, void *now);
/* The hook took what is wanted. */
void km_item_taken(enum kind kind, struct item *item);
/* The hook refused what is wanted. */
void km_item_refused(struct item *item, int error, const char *why);
/* The hook holds nothing of it any more. */
void km_item_forget(enum kind kind, struct item *item);
/* A new item in the map that wants `now`, which it takes. NULL (nothing taken): no memory. */
struct item *km_item_add(struct item **map, const char *id, void *now);
struct item *km_item_find(struct item *map, const char *id);
/* Takes it out of the map and frees it. */
void km_item_remove(enum kind kind, struct item **map, struct item *item);
void km_item_map_free(enum kind kind, struct item **map);
/* For every item of `to`: takes over what the hooks hold from its counterpart in `from`, and what
 * was wanted, where it is equal. What is left in `from` moves too. Returns how many items differ.
 */
size_t km_item_merge(enum kind kind, struct item **to, struct item **from);
/* Moves the things of one kind out of the configuration into a new map. KM_EINVAL when an id is
 * there twice, KM_ENOMEM; the map is then empty. */
int km_item_map_from_config(enum kind kind, struct item **map, struct km_msg_config *config,
			    struct km_errtext *err) __attribute__((warn_unused_result));

#endif
