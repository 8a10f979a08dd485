/* SPDX-License-Identifier: MIT */
/* gatewayd: settings, then private network -> configuration -> edge; and back at the
 * end. */
#include <urcu/urcu-memb.h>

#include "gatewayd/acme/acme.h"
#include "gatewayd/certificates.h"
#include "gatewayd/control.h"
#include "gatewayd/edge/edge.h"
#include "gatewayd/mesh/mesh.h"
#include "gatewayd/peers.h"
#include "gatewayd/settings.h"
#include "gatewayd/tunnel_metrics.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/event/httpd.h"
#include "libkm/host/net.h"
#include "libkm/join/join.h"
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct gateway {
	struct gw_settings settings;
	struct event_base *base;
	struct event *sigterm, *sigint, *sighup;
	struct km_host_net *host_net;
	struct km_privnet *net; /* NULL while it is being made anew */
	struct route_table *routes;
	struct neighbours *neighbours; /* NULL: no WireGuard */
	struct peers *peers;
	struct mesh *mesh; /* NULL: this gateway is alone */
	struct leases *leases;
	struct certs *certs;
	struct challenges *challenges;
	struct acme *acme; /* NULL: off */
	struct edge *edge;
	struct control *control;
	struct km_httpd *metrics;
	struct tunnel_metrics *tunnels;
	bool draining, drained, quiet; /* quiet: no order's answer is waited for */
	int status;
};

/* ---- the private network ---- */

static int on_net_opened(void *arg, struct km_privnet *net, struct km_errtext *err)
{
	struct gateway *g = arg;
	int rc = g->edge && !g->draining ? edge_net(g->edge, net, err) : 0;
	if (rc)
		return rc;
	g->net = net;
	peers_net(g->peers, net);
	if (g->mesh && mesh_net(g->mesh, net, err))
		km_error("other gateways cannot reach this one", km_ks("why", err->text));
	if (g->control)
		control_replay(g->control, km_privnet_public_key(net));
	return 0;
}

static void on_net_gone(void *arg)
{
	struct gateway *g = arg;
	if (g->mesh)
		(void)mesh_net(g->mesh, NULL, NULL); /* nothing to listen to: it cannot fail */
	peers_net(g->peers, NULL);
	g->net = NULL;
}

/* ---- the end ---- */

static void end_when_done(struct gateway *g)
{
	if (g->drained && g->quiet)
		event_base_loopbreak(g->base);
}

static void on_quiet(void *arg)
{
	struct gateway *g = arg;
	g->quiet = true;
	end_when_done(g);
}

static void on_drained(void *arg)
{
	struct gateway *g = arg;
	km_info("drained");
	g->drained = true;
	end_when_done(g);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct gateway *g = arg;
	(void)what;
	if (g->draining) {
		km_info("ending at once", km_ki("signal", sig));
		event_base_loopbreak(g->base);
		return;
	}
	g->draining = true;
	km_info("draining", km_ki("signal", sig));
	acme_quiet(g->acme, on_quiet, g);
	edge_drain(g->edge, on_drained, g);
}

static void on_sighup(evutil_socket_t sig, short what, void *arg)
{
	struct gateway *g = arg;
	(void)sig, (void)what;
	edge_reopen_logs(g->edge);
}

static const char *ready(void *arg)
{
	struct gateway *g = arg;
	if (g->draining)
		return "draining";
	if (!g->net)
		return "no private network";
	return control_ready(g->control);
}

/* ---- start ---- */

static int signals_make(struct gateway *g, struct km_errtext *err)
{
	signal(SIGPIPE, SIG_IGN);
	g->sigterm = evsignal_new(g->base, SIGTERM, on_signal, g);
	g->sigint = evsignal_new(g->base, SIGINT, on_signal, g);
	g->sighup = evsignal_new(g->base, SIGHUP, on_sighup, g);
	if (!g->sighup || event_add(g->sighup, NULL) || !g->sigterm || !g->sigint || event_add(g->sigterm, NULL) || event_add(g->sigint, NULL))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	return 0;
}

static void on_agent_gone(void *arg, const struct km_addr *virtual_ip)
{
	struct gateway *g = arg;
	if (g->edge)
		edge_agent_gone(g->edge, virtual_ip);
}

static int certs_make(struct gateway *g, struct km_errtext *err)
{
	char *acme_dir = gw_acme_dir(&g->settings);
	struct certs_opts o = {.own_dir = g->settings.certificate_dir,
			       .acme_dir = acme_dir,
			       .max = (size_t)g->settings.certificate_cache};
	g->certs = certs_new(&o);
	free(acme_dir);
	return g->certs ? 0 : km_errtext_set(err, KM_ENOMEM, "no memory");
}

/* ---- certificates that the gateway obtains ---- */

static void on_certificate_settled(void *arg, const char *domain, bool ok)
{
	struct gateway *g = arg;
	if (g->edge)
		edge_certificate_settled(g->edge, domain, ok);
}

static void on_obtained(void *arg, const char *domain, const char *chain, int64_t not_after_ms)
{
	control_obtained(((struct gateway *)arg)->control, domain, chain, not_after_ms);
}

static bool on_asked(void *arg, const char *domain)
{
	return acme_asked(((struct gateway *)arg)->acme, domain);
}

static void on_served(void *arg, const char *token)
{
	acme_served(((struct gateway *)arg)->acme, token);
}

static void on_gateway_revoked(void *arg, const uint8_t gateway[static 16])
{
	acme_gateway_revoked(((struct gateway *)arg)->acme, gateway);
}

static int acme_make(struct gateway *g, struct km_errtext *err)
{
	g->leases = leases_new(g->base);
	g->challenges = challenges_new(on_served, g);
	if (!g->leases || !g->challenges)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	struct acme_opts o = {.settings = &g->settings,
			      .base = g->base,
			      .certs = g->certs,
			      .challenges = g->challenges,
			      .lease = leases_ops(g->leases),
			      .settled = on_certificate_settled,
			      .obtained = on_obtained,
			      .arg = g};
	return g->settings.acme ? acme_start(&g->acme, &o, err) : 0;
}

/* What is kept of other hosts, and the other gateways to talk to. */
static int neighbours_make(struct gateway *g, struct km_errtext *err)
{
	const struct gw_settings *s = &g->settings;
	const struct mesh_opts mesh = {
	    .base = g->base, .hooks = g->acme ? acme_mesh_hooks() : NULL, .arg = g->acme};
	bool wireguard = s->host.wireguard != KM_WG_NONE;
	if (wireguard && !(g->neighbours = neighbours_new(g->base, s->host.state_dir)))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	g->peers = peers_new(s->host.state_dir, g->neighbours);
	if (gw_settings_shares(s) && !(g->mesh = mesh_new(&mesh)))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	acme_mesh(g->acme, g->mesh);
	return 0;
}

static int start(struct gateway *g, struct km_errtext *err)
{
	static const struct km_host_net_cbs net_cbs = {on_net_opened, on_net_gone};
	const struct gw_settings *s = &g->settings;
	int rc;
	*err = (struct km_errtext){"no memory"};
	if (!(g->base = event_base_new()) || !(g->routes = route_table_new()))
		return KM_ENOMEM;
	if ((rc = km_host_folders(&s->host, err)) || (rc = signals_make(g, err)))
		return rc;
	if ((rc = certs_make(g, err)) || (rc = acme_make(g, err)) || (rc = neighbours_make(g, err)))
		return rc;
	if ((rc = km_host_net_start(&g->host_net, g->base, &s->host, &net_cbs, g, err)))
		return rc;
	struct control_opts control = {.settings = s,
				       .base = g->base,
				       .routes = g->routes,
				       .peers = g->peers,
				       .mesh = g->mesh,
				       .leases = g->leases,
				       .certs = g->certs,
				       .acme = g->acme,
				       .gateway_revoked = on_gateway_revoked,
				       .public_key = km_privnet_public_key(g->net),
				       .agent_gone = on_agent_gone,
				       .arg = g};
	struct edge_opts edge = {.settings = s,
				 .base = g->base,
				 .routes = g->routes,
				 .certs = g->certs,
				 .challenges = g->challenges,
				 .net = g->net,
				 .asked = on_asked,
				 .arg = g};
	/* The configuration comes first, so that the first stranger finds it. */
	if ((rc = control_start(&g->control, &control, err)) ||
	    (rc = edge_start(&g->edge, &edge, err)))
		return rc;
	if (!(g->tunnels = tunnel_metrics_new(g->routes, (size_t)s->metrics_tunnels,
					      s->metrics_tunnels_keep)))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	km_metrics_also(tunnel_metrics_print, g->tunnels);
	return km_httpd_start(&g->metrics, g->base, s->host.metrics_listen, ready, g, err);
}

static void stop(struct gateway *g)
{
	km_httpd_free(g->metrics);
	if (g->tunnels)
		km_metrics_also(NULL, g->tunnels);
	tunnel_metrics_free(g->tunnels);
	edge_free(g->edge);
	control_free(g->control);
	acme_mesh(g->acme, NULL);
	mesh_free(g->mesh);
	acme_free(g->acme);
	leases_free(g->leases);
	peers_free(g->peers);
	neighbours_free(g->neighbours);
	if (g->base) {
		km_host_net_free(g->host_net, true);
		if (g->sigterm)
			event_free(g->sigterm);
		if (g->sigint)
			event_free(g->sigint);
		if (g->sighup)
			event_free(g->sighup);
		event_base_free(g->base);
	}
	certs_free(g->certs);
	challenges_free(g->challenges);
	route_table_free(g->routes);
	km_conf_free(&gw_settings_spec, &g->settings);
}

static void join_fill(const void *settings, struct km_msg_join *m)
{
	const struct gw_settings *s = settings;
	m->public_ip = s->public_ip.items;
	m->n_public_ip = s->public_ip.n;
	m->wireguard_port = s->host.wireguard_port;
	m->has_wireguard_port = true;
}

static int join(int argc, char **argv)
{
	static const struct km_join_opts opts = {.spec = &gw_settings_spec,
						 .host = offsetof(struct gw_settings, host),
						 .type = "gateway",
						 .unit = "kakuremichi-gatewayd",
						 .fill = join_fill};
	return km_join_main(&opts, argc, argv);
}

int main(int argc, char **argv)
{
	struct gateway g = {0};
	struct km_errtext err = {0};
	bool verbose = false;
	if (argc > 1 && !strcmp(argv[1], "join"))
		return join(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "certificates"))
		return certificates_main(argc - 1, argv + 1);
	int status = km_program_start(&gw_settings_spec, argc, argv, &g.settings, &verbose);
	if (status != KM_PROGRAM_RUN) {
		km_conf_free(&gw_settings_spec, &g.settings);
		return status;
	}
	km_log_start("gatewayd", &g.settings.host.log, verbose);
	/* What workers free in one turn they want again in the next: with glibc's 128 KiB the kernel
	 * would take the pages and give them back all the time. */
	mallopt(M_TRIM_THRESHOLD, 4 << 20);
	urcu_memb_register_thread();
	if (start(&g, &err)) {
		km_error("cannot start", km_ks("why", err.text));
		g.status = 1;
	} else {
		km_info("gateway ready", km_ks("version", KM_VERSION),
			km_ki("tunnels", (int64_t)route_count(g.routes)));
		event_base_dispatch(g.base);
		km_info("stopping");
	}
	stop(&g);
	urcu_memb_unregister_thread();
	return g.status;
}
