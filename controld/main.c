/* SPDX-License-Identifier: MIT */
/* controld: settings, then database -> schema -> pki -> store -> hub, REST; and back at the end. */
#include "controld/api/api.h"
#include "controld/api/served.h"
#include "controld/hub/hub.h"
#include "controld/pki/authority.h"
#include "controld/pki/issue.h"
#include "controld/pki/pki.h"
#include "controld/settings.h"
#include "controld/store/embedded.h"
#include "controld/store/first.h"
#include "controld/store/migrate.h"
#include "controld/store/store.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/event/httpd.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define RETRY_MS 1000 /* while the database is away at the start */
#define TIDY_S 3600   /* how often old changes are deleted */
#define KEEP_CHANGES "7 days"

struct control {
	struct settings settings;
	struct event_base *base;
	struct event *sigterm, *sigint, *retry, *tidy;
	int lock_fd;
	struct embedded *embedded; /* NULL: a server of the operator's */
	const char *conninfo;
	bool serving, told_away, stopping;
	int status; /* the exit status */
	struct pki *pki;
	struct authority *authority;
	struct km_strlist link_urls; /* of the settings, or made from names */
	struct pki_watch renewal;
	struct served *served; /* NULL: the REST interface has the hub's certificate */
	struct store *store;
	struct hub *hub;
	struct api *api;
	struct km_httpd *metrics;
};

static void give_up(struct control *c, const char *what, const char *why)
{
	km_error(what, km_ks("why", why));
	c->status = 1;
	event_base_loopbreak(c->base);
}

/* ---- serving ---- */

static void on_renewed(void *arg, const char *chain_pem, const char *key_pem)
{
	struct control *c = arg;
	struct km_errtext err;

	if ((!c->served && api_set_certificate(c->api, chain_pem, key_pem, &err)) ||
	    hub_set_certificate(c->hub, chain_pem, key_pem, &err))
		km_error("renewed certificate not taken", km_ks("why", err.text));
}

static int on_replaced(void *arg, const char *cert_pem, const char *key_pem, struct km_errtext *err)
{
	struct control *c = arg;

	return api_set_certificate(c->api, cert_pem, key_pem, err);
}

static void on_tidied(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	(void)arg;
	(void)n;
	if (error)
		km_warn("old rows not tidied", km_ks("why", error->message));
	else
		km_debug("old changes deleted", km_ks("rows", PQcmdTuples(res[0])));
}

/* Hosts stay marked online where a control was killed; readers do not believe it for long. */
#define STALE(table)                                                                               \
	{                                                                                          \
		.sql = "UPDATE " table " SET status = 'offline' WHERE status = 'online' "          \
		       "AND last_seen_at < now() - interval '60 seconds'"                          \
	}

static void on_tidy(evutil_socket_t fd, short what, void *arg)
{
	static const struct store_stmt old[] = {
	    {.sql = "DELETE FROM changes WHERE at < now() - interval '" KEEP_CHANGES "'"},
	    STALE("agents"),
	    STALE("gateways"),
	    {.sql = "DELETE FROM certificate_leases WHERE expires_at <= now()"},
	    /* Written while the last tunnel of the domain went. */
	    {.sql = "DELETE FROM certificates c WHERE NOT EXISTS (SELECT FROM tunnels t "
		    "WHERE t.domain = c.domain)"}};
	struct control *c = arg;

	(void)fd;
	(void)what;
	if (store_run(c->store, old, KM_ARRAY_LEN(old), on_tidied, c, NULL))
		km_debug("tidying waits for the database");
}

static const char *ready(void *arg)
{
	struct control *c = arg;

	if (!c->store)
		return "not started";
	return store_ready(c->store) ? NULL : "the database is away";
}

static int start_store(struct control *c, struct km_errtext *err)
{
	struct store_opts opts = {.conninfo = c->conninfo};
	struct timeval tv = {TIDY_S, 0};
	int rc = store_open(&c->store, c->base, &opts, err);

	if (rc)
		return rc;
	c->tidy = event_new(c->base, -1, EV_PERSIST, on_tidy, c);
	if (!c->tidy || event_add(c->tidy, &tv) != 0)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	return 0;
}

/* wss://NAME:PORT for each name of the settings, or for the host's own. */
static void make_urls(struct control *c)
{
	const struct km_strlist *names = &c->settings.names;
	char host[254] = "";
	size_t n = names->n;
	int port = hub_port(c->hub);

	c->link_urls = c->settings.link_urls;
	if (c->link_urls.n)
		return;
	c->link_urls.items = km_xcalloc(n + 1, sizeof(char *));
	for (size_t i = 0; i < n; i++)
		c->link_urls.items[c->link_urls.n++] =
		    km_xasprintf(strchr(names->items[i], ':') ? "wss://[%s]:%d" : "wss://%s:%d",
				 names->items[i], port);
	if (n == 0 && gethostname(host, sizeof(host) - 1) == 0 && issue_host_name_ok(host))
		c->link_urls.items[c->link_urls.n++] = km_xasprintf("wss://%s:%d", host, port);
}

static int start_serving(struct control *c, struct km_errtext *err)
{
	struct api_opts api = {.listen = c->settings.rest_listen,
			       .cert_pem = pki_chain_pem(c->pki),
			       .key_pem = pki_key_pem(c->pki),
			       .store = c->store,
			       .vault = pki_vault(c->pki),
			       .authority = c->authority,
			       .link_urls = &c->link_urls,
			       .pin = pki_pin(c->pki)};
	struct hub_opts hub = {.listen = c->settings.link_listen,
			       .cert_pem = api.cert_pem,
			       .key_pem = api.key_pem,
			       .store = c->store,
			       .vault = api.vault,
			       .authority = c->authority};
	int rc = authority_start(c->authority, c->base, c->store);

	if (rc)
		return km_errtext_set(err, rc, "no memory");
	rc = hub_start(&c->hub, c->base, &hub, err);

	if (c->served) {
		api.cert_pem = served_cert_pem(c->served);
		api.key_pem = served_key_pem(c->served);
	}
	if (!rc) {
		make_urls(c);
		rc = api_start(&c->api, c->base, &api, err);
	}
	if (rc)
		return rc;
	if (c->served)
		served_watch(c->served, on_replaced, c);
	c->renewal = (struct pki_watch){.renewed = on_renewed, .arg = c};
	pki_watch(c->pki, &c->renewal);
	return 0;
}

/* ---- the database is there: what must be done before serving (blocking) ---- */

static int open_authority(struct control *c, PGconn *db, struct km_errtext *err)
{
	const struct authority_opts opts = {.vault = pki_vault(c->pki),
					    .network = c->settings.network,
					    .lifetime_s = c->settings.certificate_lifetime / 1000,
					    .offline = c->settings.ca == SETTINGS_CA_OFFLINE,
					    .ca_certificate = c->settings.ca_certificate};

	return authority_open(&c->authority, db, &opts, err);
}

static int prepare(struct control *c, struct km_errtext *err)
{
	struct pki_opts pki = {.state_dir = c->settings.state_dir,
			       .master_key_file = c->settings.master_key_file,
			       .names = &c->settings.names};
	const char *keys[] = {"connect_timeout", "dbname", NULL},
		   *values[] = {"5", c->conninfo, NULL};
	PGconn *db = PQconnectdbParams(keys, values, 1); /* expands the address given as dbname */
	int from = 0, to = 0, rc;

	if (PQstatus(db) != CONNECTION_OK) {
		rc = km_errtext_set(err, KM_ECLOSED, "%s", PQerrorMessage(db));
		err->text[strcspn(err->text, "\n")] = '\0';
		goto out;
	}
	rc = migrate_run(db, &from, &to, err);
	if (!rc && from != to)
		km_info("schema migrated", km_ki("from", from), km_ki("to", to));
	if (!rc)
		rc = first_network(db, c->settings.network, err);
	if (!rc)
		rc = pki_open(&c->pki, c->base, db, &pki, err);
	if (!rc)
		rc = open_authority(c, db, err);
	if (!rc)
		rc = first_token(db, pki_vault(c->pki), c->settings.state_dir, err);
out:
	PQfinish(db);
	return rc;
}

static void retry_later(struct control *c, const char *why)
{
	struct timeval tv = {RETRY_MS / 1000, RETRY_MS % 1000 * 1000};

	if (!c->told_away)
		km_warn("database is away, trying until it is there", km_ks("why", why));
	c->told_away = true;
	evtimer_add(c->retry, &tv);
}

/* When the first connection to the database is up. */
static void announce(struct control *c)
{
	struct timeval soon = {0, 5000};

	if (c->stopping)
		return;
	if (store_ready(c->store)) {
		on_tidy(-1, 0, c);
		km_info("control ready", km_ki("rest_port", api_port(c->api)),
			km_ki("link_port", hub_port(c->hub)), km_ks("pin", pki_pin(c->pki)));
	} else {
		evtimer_add(c->retry, &soon);
	}
}

static void go(struct control *c)
{
	struct km_errtext err;
	int rc;

	if (c->serving)
		return;
	authority_free(c->authority);
	c->authority = NULL;
	pki_free(c->pki);
	c->pki = NULL;
	rc = prepare(c, &err);
	if (rc == KM_ECLOSED || rc == KM_ETIMEOUT) {
		retry_later(c, err.text);
		return;
	}
	c->serving = true;
	if (!rc)
		rc = start_store(c, &err);
	if (!rc)
		rc = start_serving(c, &err);
	if (rc)
		give_up(c, "control cannot start", err.text);
	else
		announce(c);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	struct control *c = arg;

	(void)fd;
	(void)what;
	if (c->serving)
		announce(c);
	else
		go(c);
}

static void on_embedded_ready(void *arg)
{
	go(arg);
}

static void on_embedded_failed(void *arg, const char *why)
{
	give_up(arg, "the embedded database cannot be started", why);
}

/* ---- start and end ---- */

static void on_hub_stopped(void *arg)
{
	struct control *c = arg;

	event_base_loopbreak(c->base);
}

/* A second signal does not wait for the database. */
static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct control *c = arg;
	bool again = c->stopping;

	(void)what;
	km_info("ending", km_ks("signal", strsignal((int)sig)));
	c->stopping = true;
	if (c->hub && !again)
		hub_stop(c->hub, on_hub_stopped, c);
	else
		event_base_loopbreak(c->base);
}

/* One controld per state directory: a second one would take the first one's database for a
 * leftover. */
static int lock_state(struct control *c, struct km_errtext *err)
{
	char *path = km_xasprintf("%s/lock", c->settings.state_dir);
	int rc = 0;

	/* The embedded database's user must be able to pass through. */
	if (km_mkdirs(c->settings.state_dir, 0711))
		rc = km_errtext_set(err, KM_EIO, "%s: %s", c->settings.state_dir, strerror(errno));
	if (!rc)
		c->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (!rc && c->lock_fd < 0)
		rc = km_errtext_set(err, KM_EIO, "%s: %s", path, strerror(errno));
	else if (!rc && flock(c->lock_fd, LOCK_EX | LOCK_NB) != 0)
		rc = km_errtext_set(err, KM_EEXIST, "%s is in use by another controld",
				    c->settings.state_dir);
	free(path);
	return rc;
}

static int start_database(struct control *c, struct km_errtext *err)
{
	static const struct embedded_cbs cbs = {on_embedded_ready, on_embedded_failed};
	struct embedded_opts opts = {.state_dir = c->settings.state_dir,
				     .user = c->settings.database_user,
				     .program_dir = c->settings.database_program_dir};
	struct timeval now = {0, 0};
	int rc;

	if (strcmp(c->settings.database, "embedded") != 0) {
		c->conninfo = c->settings.database;
		evtimer_add(c->retry, &now);
		return 0;
	}
	rc = embedded_start(&c->embedded, c->base, &opts, &cbs, c, err);
	if (!rc)
		c->conninfo = embedded_conninfo(c->embedded);
	return rc;
}

static int start(struct control *c, struct km_errtext *err)
{
	int rc = lock_state(c, err);

	if (rc)
		return rc;
	c->base = event_base_new();
	if (!c->base)
		return km_errtext_set(err, KM_ENOMEM, "no event loop");
	c->sigterm = evsignal_new(c->base, SIGTERM, on_signal, c);
	c->sigint = evsignal_new(c->base, SIGINT, on_signal, c);
	c->retry = evtimer_new(c->base, on_retry, c);
	if (!c->sigterm || !c->sigint || !c->retry || evsignal_add(c->sigterm, NULL) != 0 ||
	    evsignal_add(c->sigint, NULL) != 0)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	if (c->settings.metrics_listen)
		rc =
		    km_httpd_start(&c->metrics, c->base, c->settings.metrics_listen, ready, c, err);
	if (!rc && c->settings.certificate_file)
		rc = served_open(&c->served, c->base, c->settings.certificate_file,
				 c->settings.certificate_key_file, err);
	else if (!rc && c->settings.certificate_key_file)
		rc = km_errtext_set(err, KM_EINVAL,
				    "certificate_key_file is set, and certificate_file is not");
	return rc ? rc : start_database(c, err);
}

static void free_event(struct event *e)
{
	if (e)
		event_free(e);
}

static void stop(struct control *c)
{
	km_httpd_free(c->metrics);
	served_free(c->served);
	if (c->renewal.renewed)
		pki_unwatch(c->pki, &c->renewal);
	api_free(c->api);
	hub_free(c->hub);
	free_event(c->tidy);
	authority_free(c->authority);
	store_free(c->store);
	pki_free(c->pki);
	if (c->link_urls.items != c->settings.link_urls.items)
		km_strlist_free(&c->link_urls);
	embedded_free(c->embedded);
	free_event(c->retry);
	free_event(c->sigint);
	free_event(c->sigterm);
	if (c->base)
		event_base_free(c->base);
	if (c->lock_fd >= 0)
		close(c->lock_fd);
}

int main(int argc, char **argv)
{
	struct control c = {.lock_fd = -1};
	struct km_errtext err;
	bool verbose = false;
	int rc = km_program_start(&settings_spec, argc, argv, &c.settings, &verbose);

	if (rc != KM_PROGRAM_RUN)
		goto out;
	km_log_start("controld", &c.settings.log, verbose);
	signal(SIGPIPE, SIG_IGN);
	umask(022);
	if (start(&c, &err)) {
		km_error("control cannot start", km_ks("why", err.text));
		c.status = 1;
	} else {
		event_base_dispatch(c.base);
	}
	stop(&c);
	libevent_global_shutdown();
	km_info("ended");
	rc = c.status;
out:
	km_conf_free(&settings_spec, &c.settings);
	return rc;
}
