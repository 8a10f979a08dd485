/* SPDX-License-Identifier: MIT */
#include "libkm/replica/item.h"

#include <string.h>

/* The bounds of a configuration's arrays, as messages.def states them. */
enum {
#define S(name)
#include "libkm/msg/only_s.h"
#undef OBJS
#define OBJS(s, f, j, r, sub, maxn) max_##s##_##f = maxn,
#include "libkm/msg/messages.def"
#include "libkm/msg/undef.h"
};

#define MAPPED(one, many)                                                                          \
	{                                                                                          \
#one, &km_msg_desc_##one, sizeof(struct km_msg_##one), max_config_##many,          \
		    offsetof(struct km_msg_config, many),                                          \
		    offsetof(struct km_msg_config, n_##many), #many,                               \
		    offsetof(struct km_msg_change, one)                                            \
	}
#define SINGLE(one, self)                                                                          \
	{                                                                                          \
#one, &km_msg_desc_##self, sizeof(struct km_msg_##self), 1,                        \
		    offsetof(struct km_msg_config, one), 0, #one, 0                                \
	}

const struct kind_info km_item_kinds[N_KINDS] = {
    [KIND_TUNNEL] = MAPPED(tunnel, tunnels),
    [KIND_AGENT] = MAPPED(agent, agents),
    [KIND_GATEWAY] = MAPPED(gateway, gateways),
    [KIND_GATEWAY_SELF] = SINGLE(gateway, gateway_self),
    [KIND_AGENT_SELF] = SINGLE(agent, agent_self),
};

static void struct_free(enum kind kind, void *p)
{
	if (p)
		km_msg_clear(km_item_kinds[kind].desc, p);
	free(p);
}

void km_item_free(enum kind kind, struct item *item)
{
	if (!item)
		return;
	if (item->applied != item->now)
		struct_free(kind, item->applied);
	struct_free(kind, item->now);
	free(item->why);
	free(item);
}

bool km_item_want(enum kind kind, struct item *item, void *now)
{
	void *old = item->now;

	if (old && now && km_msg_equal(km_item_kinds[kind].desc, old, now)) {
		struct_free(kind, now);
		return false;
	}
	item->now = now;
	/* A hook that refused it may still have noted it, so it hears of the end of it. */
	if (!now && !item->applied)
		item->applied = old;
	if (old != item->applied)
		struct_free(kind, old);
	return true;
}

void km_item_taken(enum kind kind, struct item *item)
{
	if (item->applied != item->now)
		struct_free(kind, item->applied);
	item->applied = item->now;
	km_item_refused(item, 0, NULL);
}

void km_item_refused(struct item *item, int error, const char *why)
{
	free(item->why);
	item->error = error;
	item->why = why ? strdup(why) : NULL;
}

void km_item_forget(enum kind kind, struct item *item)
{
	if (item->applied != item->now)
		struct_free(kind, item->applied);
	item->applied = NULL;
}

struct item *km_item_add(struct item **map, const char *id, void *now)
{
	struct item *item = calloc(1, sizeof *item);

	if (!item)
		return NULL;
	snprintf(item->id, sizeof item->id, "%s", id);
	HASH_ADD_STR(*map, id, item);
	if (!item->hh.tbl) {
		free(item);
		return NULL;
	}
	item->now = now;
	return item;
}

struct item *km_item_find(struct item *map, const char *id)
{
	struct item *item;

	HASH_FIND_STR(map, id, item);
	return item;
}

void km_item_remove(enum kind kind, struct item **map, struct item *item)
{
	HASH_DEL(*map, item);
	km_item_free(kind, item);
}

void km_item_map_free(enum kind kind, struct item **map)
{
	struct item *item, *next;

	HASH_ITER (hh, *map, item, next)
		km_item_remove(kind, map, item);
}

/* Takes over what `old` holds, which then is empty. Whether they differ. */
static bool inherit(enum kind kind, struct item *item, struct item *old)
{
	void *wanted = item->now;

	item->now = old->now;
	item->applied = old->applied;
	item->error = old->error;
	item->why = old->why;
	old->now = old->applied = NULL;
	old->why = NULL;
	return km_item_want(kind, item, wanted);
}

size_t km_item_merge(enum kind kind, struct item **to, struct item **from)
{
	struct item *item, *next, *old;
	size_t differ = 0;

	HASH_ITER (hh, *to, item, next) {
		old = km_item_find(*from, item->id);
		if (!old) {
			differ++;
			continue;
		}
		differ += inherit(kind, item, old);
		km_item_remove(kind, from, old);
	}
	HASH_ITER (hh, *from, old, next) {
		item = km_item_add(to, old->id, NULL);
		if (item) /* without memory the hook is never asked again */
			inherit(kind, item, old);
		km_item_remove(kind, from, old);
	}
	return differ;
}

/* Moves the struct at p to memory of its own. */
static int adopt(enum kind kind, struct item **map, void *p, struct km_errtext *err)
{
	const struct kind_info *info = &km_item_kinds[kind];
	/* p is never NULL here. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	const char *id = info->n_in_config ? *(char **)p : SELF;
	void *own;

	if (km_item_find(*map, id))
		return km_errtext_set(err, KM_EINVAL, "%s: the id %s is there twice", info->json,
				      id);
	own = malloc(info->size);
	if (!own)
		return km_errtext_set(err, KM_ENOMEM, "no memory for a configuration");
	memcpy(own, p, info->size);
	if (!km_item_add(map, id, own)) {
		free(own);
		return km_errtext_set(err, KM_ENOMEM, "no memory for a configuration");
	}
	memset(p, 0, info->size);
	return 0;
}

/* Every struct of a map begins with its id. */
_Static_assert(offsetof(struct km_msg_tunnel, id) == 0, "adopt");
_Static_assert(offsetof(struct km_msg_agent, id) == 0, "adopt");
_Static_assert(offsetof(struct km_msg_gateway, id) == 0, "adopt");

int km_item_map_from_config(enum kind kind, struct item **map, struct km_msg_config *config,
			    struct km_errtext *err)
{
	const struct kind_info *info = &km_item_kinds[kind];
	char *array = *(char **)((char *)config + info->in_config);
	size_t n = array ? 1 : 0;
	int r = 0;

	if (info->n_in_config)
		n = *(size_t *)((char *)config + info->n_in_config);
	*map = NULL;
	for (size_t i = 0; i < n && !r; i++)
		r = adopt(kind, map, array + i * info->size, err);
	if (r)
		km_item_map_free(kind, map);
	return r;
}
