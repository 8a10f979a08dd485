/* SPDX-License-Identifier: MIT */
/* agentd: beside the services that are to be reached. See docs/architecture.md. */
#include "agentd/agent.h"
#include "libkm/base/log.h"
#include "libkm/join/join.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define HEADER_TIMEOUT_MS 5000
#define DRAIN_LOOK_MS 50
#define FDS_PER_CONNECTION 2
#define FDS_ELSE 2048 /* pipes, of which there are only so many, and the rest */

/* ---- the end ---- */

static void on_drain_look(evutil_socket_t none, short what, void *arg)
{
	struct agent *a = arg;
	unsigned left;

	(void)none;
	(void)what;
	if (net_gateways(a))
		km_warn("no memory for the list of gateways");
	left = forward_active(a->forward);
	if (left && km_now_ms() < a->drain_until_ms)
		return;
	km_info("drained", km_ki("connections_cut", left));
	event_base_loopbreak(a->base);
}

static void on_signal(evutil_socket_t signal, short what, void *arg)
{
	static const struct timeval look = {0, DRAIN_LOOK_MS * 1000};
	struct agent *a = arg;

	(void)what;
	if (a->draining) {
		event_base_loopbreak(a->base);
		return;
	}
	a->draining = true;
	a->drain_until_ms = km_now_ms() + a->settings.drain_timeout;
	km_info("draining", km_ki("signal", signal),
		km_ki("connections", forward_active(a->forward)));
	forward_drain(a->forward);
	event_add(a->drain_timer, &look);
}

/* ---- the start ---- */

static const char *not_ready(void *arg)
{
	const struct agent *a = arg;

	if (a->draining)
		return "the agent is ending";
	if (!a->net)
		return "there is no private network";
	return a->listening ? NULL : "there is no configuration yet";
}

static void on_report(void *arg, const struct forward_report *r)
{
	struct agent *a = arg;

	probes_seen(a->probes, r->tunnel, r->healthy, r->why);
}

/* Raises the limit of descriptors as far as it goes; what it bears bounds max_connections. */
static unsigned connections_that_fit(int64_t wanted)
{
	struct rlimit limit;
	rlim_t fit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return (unsigned)wanted;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0 && getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return (unsigned)wanted;
	fit = limit.rlim_cur > FDS_ELSE ? (limit.rlim_cur - FDS_ELSE) / FDS_PER_CONNECTION : 16;
	if (fit >= (rlim_t)wanted)
		return (unsigned)wanted;
	km_warn("max_connections is more than the limit of descriptors bears",
		km_ki("wanted", wanted), km_ki("used", (int64_t)fit));
	return (unsigned)fit;
}

static int start_forward(struct agent *a)
{
	const struct settings *s = &a->settings;
	struct forward_opts opts = {
	    .allow = a->allow,
	    .resolver = a->resolver,
	    .workers = (unsigned)s->workers,
	    .max_connections = connections_that_fit(s->max_connections),
	    .header_timeout_ms = HEADER_TIMEOUT_MS,
	    .connect_timeout_ms = s->connect_timeout,
	    .idle_timeout_ms = s->idle_timeout,
	};

	return forward_start(&a->forward, a->base, &opts, on_report, a);
}

/* What must be there before any configuration is applied. */
static int start_parts(struct agent *a, struct km_errtext *err)
{
	const struct settings *s = &a->settings;
	int rc = allow_new(&a->allow, (const char *const *)s->allow_targets.items,
			   s->allow_targets.n, err);

	if (rc)
		return rc;
	rc = km_resolver_start(&a->resolver);
	if (rc)
		return km_errtext_set(err, rc, "the resolver's threads do not start");
	a->port = km_resolver_port_new(a->resolver, a->base);
	a->env = (struct dial_env){a->base, a->port, a->allow};
	rc = a->port ? start_forward(a) : KM_ENOMEM;
	if (rc)
		return km_errtext_set(err, rc, "the workers do not start");
	a->probes = probes_new(&a->env, s->connect_timeout, status_changed, a);
	a->peers = peers_new(a->base, a->port, s->host.state_dir, s->probe_interval);
	if (!a->probes || !a->peers || status_start(a))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	return 0;
}

static int start_signals(struct agent *a, struct km_errtext *err)
{
	signal(SIGPIPE, SIG_IGN);
	a->sigterm = evsignal_new(a->base, SIGTERM, on_signal, a);
	a->sigint = evsignal_new(a->base, SIGINT, on_signal, a);
	a->drain_timer = event_new(a->base, -1, EV_PERSIST, on_drain_look, a);
	if (!a->sigterm || !a->sigint || !a->drain_timer || event_add(a->sigterm, NULL) ||
	    event_add(a->sigint, NULL))
		return km_errtext_set(err, KM_ENOMEM, "no memory for signals");
	return 0;
}

static int start(struct agent *a, struct km_errtext *err)
{
	int rc = km_host_folders(&a->settings.host, err);

	if (rc)
		return rc;
	a->base = event_base_new();
	if (!a->base)
		return km_errtext_set(err, KM_ENOMEM, "no event loop");
	if ((rc = start_signals(a, err)) || (rc = start_parts(a, err)) ||
	    (rc = km_httpd_start(&a->httpd, a->base, a->settings.host.metrics_listen, not_ready, a,
				 err)) ||
	    (rc = net_start(a, err)))
		return rc;
	return control_start(a, err);
}

static void stop_signal(struct event *e)
{
	if (e)
		event_free(e);
}

static void stop(struct agent *a)
{
	control_stop(a);
	status_stop(a);
	km_httpd_free(a->httpd);
	forward_free(a->forward);
	net_stop(a, true);
	probes_free(a->probes);
	peers_free(a->peers);
	km_resolver_port_free(a->port);
	km_resolver_free(a->resolver);
	allow_free(a->allow);
	stop_signal(a->sigterm);
	stop_signal(a->sigint);
	stop_signal(a->drain_timer);
	if (a->base)
		event_base_free(a->base);
	libevent_global_shutdown();
}

static int join(int argc, char **argv)
{
	static const struct km_join_opts opts = {.spec = &settings_spec,
						 .host = offsetof(struct settings, host),
						 .type = "agent",
						 .unit = "kakuremichi-agentd"};

	return km_join_main(&opts, argc, argv);
}

int main(int argc, char **argv)
{
	struct agent a = {0};
	struct km_errtext err = {0};
	bool verbose;
	int rc;

	if (argc > 1 && strcmp(argv[1], "join") == 0)
		return join(argc - 1, argv + 1);
	rc = km_program_start(&settings_spec, argc, argv, &a.settings, &verbose);
	if (rc != KM_PROGRAM_RUN)
		return rc;
	km_log_start("agentd", &a.settings.host.log, verbose);
	km_info("agent starts", km_ks("version", KM_VERSION));
	rc = start(&a, &err);
	if (rc)
		km_error("agent cannot start", km_ke(rc), km_ks("reason", err.text));
	else
		event_base_dispatch(a.base);
	stop(&a);
	km_conf_free(&settings_spec, &a.settings);
	km_info("agent ended");
	return rc ? 1 : 0;
}
