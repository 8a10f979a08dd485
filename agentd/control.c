/* SPDX-License-Identifier: MIT */
#include "agentd/agent.h"
#include "libkm/base/util.h"

/* ---- what control wants, applied ---- */

static int on_self(void *arg, const struct km_msg_agent_self *was,
		   const struct km_msg_agent_self *is, struct km_errtext *err)
{
	struct agent *a = arg;
	struct km_addr addr;

	(void)was;
	if (!is)
		return 0; /* the address stays until there is another */
	if (km_addr_parse(&addr, is->virtual_ip))
		return km_errtext_set(err, KM_EINVAL, "virtual IP %s is malformed", is->virtual_ip);
	a->address = addr;
	a->has_address = true;
	return 0;
}

static int on_gateway(void *arg, const struct km_msg_gateway *was, const struct km_msg_gateway *is,
		      struct km_errtext *err)
{
	struct agent *a = arg;

	return is ? peers_set(a->peers, is, err) : peers_remove(a->peers, was->id, err);
}

static int remove_tunnel(struct agent *a, const struct km_msg_tunnel *was)
{
	uint8_t id[16];

	if (km_uuid_parse(id, was->id))
		return 0; /* it never was in the table */
	probes_remove(a->probes, id);
	tunnel_table_remove(forward_tunnels(a->forward), id);
	a->tunnels_changed = true;
	return 0;
}

static int on_tunnel(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		     struct km_errtext *err)
{
	struct agent *a = arg;
	struct tunnel *t;
	bool refused;
	int rc;

	if (!is)
		return remove_tunnel(a, was);
	rc = tunnel_new(&t, is, a->allow, err);
	if (rc) {
		if (was)
			remove_tunnel(a, was);
		return rc;
	}
	refused = t->refused && t->enabled;
	a->tunnels_changed = true;
	rc = probes_set(a->probes, t);
	tunnel_table_set(forward_tunnels(a->forward), t);
	if (rc)
		return km_errtext_set(err, rc, "no memory to probe tunnel %s", is->domain);
	if (refused)
		return km_errtext_set(err, KM_EPERM,
				      "tunnel %s%s: target %s is not in the agent's allow_targets",
				      is->domain, is->path ? is->path : "", is->target);
	return 0;
}

static int on_settled(void *arg, struct km_errtext *err)
{
	struct agent *a = arg;

	if (a->tunnels_changed)
		forward_sweep(a->forward);
	a->tunnels_changed = false;
	return net_settle(a, err);
}

static const struct km_replica_hooks hooks = {
    .agent_self = on_self,
    .gateway = on_gateway,
    .tunnel = on_tunnel,
    .settled = on_settled,
};

static int on_key_next(void *arg, uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err)
{
	struct agent *a = arg;

	return a->net ? km_privnet_key_next(a->net, pub, err) : KM_ECLOSED;
}

static int on_key_switch(void *arg, const uint8_t pub[static KM_WG_KEY_LEN],
			 struct km_errtext *err)
{
	struct agent *a = arg;
	int rc = a->net ? km_privnet_key_switch(a->net, pub, err) : KM_ECLOSED;

	if (rc)
		return rc;
	memcpy(a->public_key, pub, KM_WG_KEY_LEN);
	peers_rekeyed(a->peers);
	return 0;
}

int control_start(struct agent *a, struct km_errtext *err)
{
	struct km_uplink_opts opts = km_host_uplink_opts(&a->settings.host);

	opts.base = a->base;
	opts.type = "agent";
	opts.public_key = a->public_key;
	opts.hooks = &hooks;
	opts.authenticated = status_all;
	opts.key_next = on_key_next;
	opts.key_switch = on_key_switch;
	opts.arg = a;
	return km_uplink_open(&a->uplink, &opts, err);
}

void control_stop(struct agent *a)
{
	km_uplink_free(a->uplink);
	a->uplink = NULL;
}
