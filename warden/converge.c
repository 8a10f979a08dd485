/* SPDX-License-Identifier: MIT */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/wg/internal.h"
#include "warden/warden.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATHS_MAX 1024 /* routes of their own; TCP through the others is still cut to fit */

/* How one kind of list is read and changed. */
struct kind {
	const char *what;
	int (*dump)(struct km_nl *nl, int ifindex, struct km_prefix **out, size_t *n);
	int (*change)(struct km_nl *nl, int ifindex, const struct km_prefix *p, bool add);
};
static const struct kind addresses = {"address", km_nl_addrs, km_nl_addr};
static const struct kind routes = {"route", km_nl_routes, km_nl_route};

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct km_prefix));
}

static void sort(struct km_prefix *list, size_t n)
{
	if (n)
		qsort(list, n, sizeof(*list), compare);
}

static bool has(const struct km_prefix *sorted, size_t n, const struct km_prefix *p)
{
	return n && bsearch(p, sorted, n, sizeof(*p), compare);
}

static int change(struct warden *w, const struct kind *k, const struct km_prefix *p, bool add,
		  struct km_errtext *err)
{
	char text[KM_PREFIX_STRLEN];
	int rc = k->change(w->nl, w->ifindex, p, add);

	if (rc)
		km_errtext_set(err, rc, "%s %s cannot be %s: %s", k->what, km_prefix_str(p, text),
			       add ? "added" : "removed", strerror(errno));
	return rc;
}

static int route_mtu(struct warden *w, const struct km_prefix *net, uint32_t mtu,
		     struct km_errtext *err)
{
	char text[KM_PREFIX_STRLEN];
	int rc = km_nl_route_mtu(w->nl, w->ifindex, net, mtu);

	if (rc)
		km_errtext_set(err, rc, "the MTU of route %s cannot be set: %s",
			       km_prefix_str(net, text), strerror(errno));
	return rc;
}

/* Adds what is missing, then removes what is too much; goes on after an error and reports the
 * first. In this order a device that changes its only address never is without one. */
static int converge(struct warden *w, const struct kind *k, const struct km_prefix *want, size_t n,
		    struct km_errtext *err)
{
	struct km_prefix *now = NULL;
	size_t n_now = 0, i;
	int rc, first = k->dump(w->nl, w->ifindex, &now, &n_now);

	if (first)
		return km_errtext_set(err, first, "the %s list cannot be read: %s", k->what,
				      strerror(errno));
	sort(now, n_now);
	for (i = 0; i < n; i++) {
		if (has(now, n_now, &want[i]))
			continue;
		rc = change(w, k, &want[i], true, first ? NULL : err);
		first = first ? first : rc;
	}
	for (i = 0; i < n_now; i++) {
		if (has(want, n, &now[i]))
			continue;
		rc = change(w, k, &now[i], false, first ? NULL : err);
		first = first ? first : rc;
	}
	free(now);
	return first;
}

/* The routes that were asked for, and one to each prefix behind a narrow path, which says so. */
static int settle_routes(struct warden *w, struct km_errtext *err)
{
	struct km_prefix *want = km_xcalloc(w->n_routes + w->n_paths + 1, sizeof(*want));
	size_t n = w->n_routes;
	int rc;

	if (n)
		memcpy(want, w->routes, n * sizeof(*want));
	for (size_t i = 0; i < w->n_paths; i++)
		if (!has(w->routes, w->n_routes, &w->paths[i].net))
			want[n++] = w->paths[i].net;
	sort(want, n);
	rc = converge(w, &routes, want, n, err);
	for (size_t i = 0; !rc && i < w->n_paths; i++)
		rc = route_mtu(w, &w->paths[i].net, w->paths[i].mtu, err);
	free(want);
	return rc;
}

static bool narrow(const struct km_wg_path *list, size_t n, const struct km_prefix *net)
{
	for (size_t i = 0; i < n; i++)
		if (km_prefix_eq(&list[i].net, net))
			return true;
	return false;
}

int warden_paths(struct warden *w, struct km_errtext *err)
{
	struct km_wg_path *old = w->paths, *now = NULL;
	size_t n_old = w->n_paths, n = 0;
	uint64_t news;
	int rc;

	if (w->dev->paths_fd >= 0 && read(w->dev->paths_fd, &news, sizeof(news)) < 0 &&
	    errno != EAGAIN)
		return km_errtext_set(err, KM_EIO, "paths: %s", strerror(errno));
	rc = w->dev->ops->paths(w->dev, &now, &n);
	if (rc)
		return warden_device_error(w, rc, "paths not listed", err);
	w->paths = now;
	w->n_paths = n > PATHS_MAX ? PATHS_MAX : n;
	for (size_t i = 0; !rc && i < n_old; i++)
		if (!narrow(now, w->n_paths, &old[i].net) &&
		    has(w->routes, w->n_routes, &old[i].net))
			rc = route_mtu(w, &old[i].net, 0, err);
	free(old);
	return rc ? rc : settle_routes(w, err);
}

int warden_addresses(struct warden *w, const struct km_prefix *want, size_t n,
		     struct km_errtext *err)
{
	struct km_prefix *sorted = km_xcalloc(n ? n : 1, sizeof(*sorted));
	int rc;

	if (n)
		memcpy(sorted, want, n * sizeof(*sorted));
	sort(sorted, n);
	rc = converge(w, &addresses, sorted, n, err);
	free(sorted);
	/* With a device's last address the kernel drops its routes as well. */
	return rc ? rc : settle_routes(w, err);
}

int warden_routes(struct warden *w, struct km_prefix *want, size_t n, struct km_errtext *err)
{
	for (size_t i = 0; i < n; i++)
		want[i] = km_wg_network(&want[i]);
	sort(want, n);
	free(w->routes);
	w->routes = want;
	w->n_routes = n;
	return settle_routes(w, err);
}

int warden_device_error(const struct warden *w, int rc, const char *what, struct km_errtext *err)
{
	return km_errtext_set(err, rc, "%s: %s: %s", w->dev->ops->name, what,
			      km_why(rc));
}

/* The endpoint that the device uses for this peer now, if any. */
static int learned_endpoint(struct warden *w, struct km_wg_peer *peer)
{
	struct km_wg_peer_status *list = NULL;
	size_t n = 0;
	int rc = w->dev->ops->dump(w->dev, &list, &n);

	for (size_t i = 0; !rc && i < n; i++) {
		if (memcmp(list[i].key, peer->key, KM_WG_KEY_LEN))
			continue;
		peer->has_endpoint = list[i].has_endpoint;
		peer->endpoint = list[i].endpoint;
	}
	free(list);
	return rc;
}

int warden_peer_kick(struct warden *w, const struct km_wg_peer *peer, struct km_errtext *err)
{
	struct km_wg_peer full = *peer;
	int rc = peer->has_endpoint ? 0 : learned_endpoint(w, &full);

	if (!rc)
		rc = km_wg_peer_remove(w->dev, peer->key);
	if (!rc)
		rc = km_wg_peer_set(w->dev, &full);
	return rc ? warden_device_error(w, rc, "peer not kicked", err) : 0;
}

static void on_mended(void *arg, const uint8_t key[static KM_WG_KEY_LEN], const char *what)
{
	static struct km_log_limit limit;
	struct warden *w = arg;
	char text[KM_WG_KEY_STRLEN];
	uint32_t held;

	w->mended++;
	if (km_log_allow(&limit, km_now_ms(), 20, 60000, &held))
		km_warn("peer was not as configured, mended",
			km_ks("peer", km_wg_key_str(key, text)), km_ks("it_was", what),
			km_ki("held_back", held));
}

/* What cannot be mended now is tried again at the next look. */
static void mend(struct warden *w, const struct km_wg_peer_status *list, size_t n)
{
	static struct km_log_limit limit;
	uint32_t held;
	int rc = km_wg_mend(w->dev, list, n, on_mended, w);

	if (rc && km_log_allow(&limit, km_now_ms(), 3, 60000, &held))
		km_warn("peer is not as configured, not mended", km_ke(rc),
			km_ki("held_back", held));
}

int warden_peers(struct warden *w, struct km_wg_peer_status **list, size_t *n,
		 struct km_errtext *err)
{
	const uint32_t before = w->mended;
	int rc = w->dev->ops->dump(w->dev, list, n);

	if (rc)
		return warden_device_error(w, rc, "peers not listed", err);
	mend(w, *list, *n);
	return w->mended != before && w->n_paths ? warden_paths(w, err) : 0;
}

int warden_peers_keep(struct warden *w, uint8_t (*keys)[KM_WG_KEY_LEN], size_t n,
		      struct km_errtext *err)
{
	struct km_wg_peer_status *list = NULL;
	size_t n_list = 0;
	int rc = km_wg_peers_keep(w->dev, keys, n);

	if (rc)
		return warden_device_error(w, rc, "peers not removed", err);
	rc = warden_peers(w, &list, &n_list, err);
	free(list);
	return rc;
}
