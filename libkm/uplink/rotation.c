/* SPDX-License-Identifier: MIT */
#include "libkm/uplink/rotation.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/msg/msg.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 60000
#define LOOKS 8 /* in the life of a key, at least */

struct km_rotation {
	struct km_rotation_opts o;
	struct event *timer;
	bool authenticated;
	uint8_t said[KM_WG_KEY_LEN]; /* the next key whose code has been logged */
	struct km_metric *age, *done;
};

/* Milliseconds since the key came into use (0 too where the clock has been put back since); -1: there
 * is none. */
static int64_t key_age(const struct km_rotation *r)
{
	char *path = km_xasprintf("%s/wireguard.key", r->o.state_dir);
	struct stat st;
	int64_t age = -1;

	if (stat(path, &st) == 0) {
		age = km_wall_ms() - (st.st_mtim.tv_sec * 1000LL + st.st_mtim.tv_nsec / 1000000);
		age = age < 0 ? 0 : age;
	}
	free(path);
	return age;
}

static bool begun(const struct km_rotation *r)
{
	char *path = km_xasprintf("%s/wireguard.key.next", r->o.state_dir);
	bool yes = access(path, F_OK) == 0;

	free(path);
	return yes;
}

static void tell(struct km_rotation *r, const uint8_t *pub, bool switched)
{
	char key[KM_WG_KEY_STRLEN];
	struct km_msg_key_update m = {.wireguard_public_key = km_wg_key_str(pub, key),
				      .has_switched = true,
				      .switched = switched};
	int rc = r->o.send(r->o.send_arg, "key_update", km_msg_format(&km_msg_desc_key_update, &m));

	/* Unsent, it is made good by the next auth, or by the next look. */
	if (rc && rc != KM_ECLOSED)
		km_warn("next WireGuard key not told", km_ke(rc));
}

static void begin(struct km_rotation *r)
{
	char code[KM_WG_CODE_STRLEN];
	uint8_t pub[KM_WG_KEY_LEN];
	struct km_errtext err = {""};
	int rc = r->o.next(r->o.arg, pub, &err);

	if (rc == KM_ECLOSED || rc == KM_EUNSUPPORTED)
		return;
	if (rc)
		km_error("no next WireGuard key", km_ks("why", err.text));
	if (rc)
		return;
	if (memcmp(pub, r->said, sizeof(r->said)) != 0)
		km_info("next WireGuard key", km_ks("code", km_wg_key_code(pub, code)));
	memcpy(r->said, pub, sizeof(r->said));
	tell(r, pub, false);
}

static void on_look(evutil_socket_t none, short what, void *arg)
{
	struct km_rotation *r = arg;
	int64_t age = key_age(r);

	(void)none, (void)what;
	km_metric_set(r->age, age < 0 ? 0 : age / 1000);
	if (!r->authenticated || age < 0)
		return;
	if (begun(r)) {
		begin(r);
	} else if (r->o.every_ms && age >= r->o.every_ms) {
		km_info("WireGuard key is due to be changed", km_ki("age_s", age / 1000));
		begin(r);
	}
}

void km_rotation_authenticated(struct km_rotation *r)
{
	r->authenticated = true;
	on_look(-1, 0, r);
}

bool km_rotation_ready(struct km_rotation *r, const json_t *data, uint8_t pub[static KM_WG_KEY_LEN])
{
	struct km_errtext err = {""};
	struct km_msg_key_ready m;
	int rc = km_msg_parse(&km_msg_desc_key_ready, &m, data, &err);

	if (!rc) {
		rc = km_wg_key_parse(pub, m.wireguard_public_key);
		km_msg_clear(&km_msg_desc_key_ready, &m);
	}
	if (!rc)
		rc = r->o.switch_to(r->o.arg, pub, &err);
	if (rc) {
		km_error("WireGuard key not changed", km_ke(rc), km_ks("why", err.text));
		return false;
	}
	km_info("WireGuard key changed");
	km_metric_add(r->done, 1);
	tell(r, pub, true);
	return true;
}

struct km_rotation *km_rotation_new(const struct km_rotation_opts *opts)
{
	struct km_rotation *r = calloc(1, sizeof(*r));
	int64_t ms = opts->every_ms && opts->every_ms / LOOKS < LOOK_MS ? opts->every_ms / LOOKS
									 : LOOK_MS;
	const struct timeval every = {ms / 1000, ms % 1000 * 1000 + 1};
	char name[80];

	if (!r)
		return NULL;
	r->o = *opts;
	snprintf(name, sizeof(name), "kakuremichi_%s_wireguard_key_age_seconds", opts->type);
	r->age = km_metric(KM_METRIC_GAUGE, name, "", "For how long the WireGuard key is used.");
	snprintf(name, sizeof(name), "kakuremichi_%s_key_rotations_total", opts->type);
	r->done = km_metric(KM_METRIC_COUNTER, name, "", "Changes of the WireGuard key.");
	r->timer = event_new(opts->base, -1, EV_PERSIST, on_look, r);
	if (r->timer && event_add(r->timer, &every) == 0)
		return r;
	km_rotation_free(r);
	return NULL;
}

void km_rotation_free(struct km_rotation *r)
{
	if (!r)
		return;
	if (r->timer)
		event_free(r->timer);
	free(r);
}
