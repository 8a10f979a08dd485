/* SPDX-License-Identifier: MIT */
/* The inside of the hub. A link goes through these steps, each of which waits for the database:
 *
 *   open ─auth─▶ FIND (whose key is it) ─▶ BIND (its WireGuard key, address) ─▶ SYNC (what it
 *   missed, or everything) ─▶ LIVE (each change as it comes)
 *   open ─join─▶ JOIN_FIND (whose token is it) ─▶ JOIN_BIND (its keys), and it is answered
 *
 * A step that finds the database away is tried again every second. */
#ifndef CONTROLD_HUB_CLIENT_H
#define CONTROLD_HUB_CLIENT_H

#include "controld/api/limit.h"
#include "controld/hub/hub.h"
#include "controld/pki/authority.h"
#include "controld/store/store.h"
#include "libkm/base/util.h"
#include "libkm/link/server.h"
#include "libkm/msg/msg.h"
#include "libkm/wg/wg.h"
#include <stdbool.h>
#include <uthash.h>

#define HUB_OFFLINE_MS 60000
#define HUB_EPOCH_LEN 64

enum step {
	STEP_OPEN,
	STEP_FIND,
	STEP_BIND,
	STEP_SYNC,
	STEP_LIVE,
	STEP_JOIN_FIND,
	STEP_JOIN_BIND,
};

struct client {
	struct hub *hub;
	uint64_t link;
	bool gateway; /* else an agent */
	enum step step;
	bool waiting;         /* for the database; the step is to be begun again */
	struct store_req *db; /* under way, or NULL */
	struct km_addr peer;
	struct km_msg_auth auth;
	struct km_msg_join join;
	char new_key[48]; /* of a join: the API key to answer */
	int64_t place; /* its number in the network */
	/* rotate.c: the next WireGuard key, since when and with which revision its peers are told of
	 * it (0: they are not). */
	struct store_req *db_key;
	char rotation_key[KM_WG_KEY_STRLEN];
	int64_t rotation_revision, rotation_ms;
	char switched_key[KM_WG_KEY_STRLEN]; /* that it uses, and that is not written down; "": none */
	bool promote; /* it comes with its next key */
	bool come_again; /* it is closed with the next tick, so that it authenticates anew */
	bool certify; /* it has the bound key, and no certificate */
	char id[KM_UUID_STRLEN], name[72];
	bool named;      /* stands in by_id */
	uint64_t number; /* among all links of all controlds, ascending; 0: not known yet */
	bool fight_logged;

	/* What it has. sent: the last revision sent to it; looked: every change up to this one was
	 * sent if it concerned it. whole: its next sync is a `config`. */
	int64_t sent, looked;
	bool whole;
	int64_t held_ms; /* it hears of no change before this time (feed_hold); 0: it does */

	/* What it says, until the next flush. */
	int64_t heartbeat_ms; /* monotonic */
	bool seen_dirty, report_dirty, ack_dirty;
	json_t *report; /* {"tunnels": {id: …}, "peers": {id: …}}; NULL: nothing reported yet */
	char acked_epoch[HUB_EPOCH_LEN + 1];
	bool ack_by_auth; /* named in auth, which says nothing of items that could not be applied */
	int64_t acked_revision;
	char *ack_error;

	/* lease.c: {domain: whether it is given back} of what is asked next. */
	json_t *leases;
	struct store_req *db_lease;

	int64_t budget, budget_ms; /* of messages */
	UT_hash_handle hh, hh_id;
};

struct hub {
	struct event_base *base;
	struct store *store;
	const struct vault *vault;
	struct authority *authority;
	struct authority_watch trust;
	struct store_watch *watch;
	struct km_link_server *links;
	struct event *tick;
	struct client *by_link, *by_id;
	struct limit *failures;  /* unknown keys, by address */
	struct limit *takeovers; /* by id */
	struct limit *lost;      /* by id: to links at other controlds */
	struct limit *wishes;    /* by id: next WireGuard keys */
	struct limit *asks;      /* by id: leases */

	/* What other controlds are told of our links. */
	char instance[KM_UUID_STRLEN];
	bool announce_due; /* all of them, again */
	struct store_req *announcing;

	/* The feed. seen: every change up to this revision was fanned out. */
	char epoch[HUB_EPOCH_LEN + 1]; /* "": not known yet */
	int64_t seen, newest;
	struct store_req *feed;

	/* Reports not yet written. */
	struct store_req *flush;
	json_t *gone_agents, *gone_gateways;   /* id -> {"id", "seen"} */
	json_t *certificates;                  /* "gateway domain" -> row */
	json_t *going_agents, *going_gateways; /* those of the flush under way */
	json_t *writing;

	hub_stopped_cb *stopped; /* NULL: not stopping */
	void *stopped_arg;
};

/* ---- hub.c ---- */
/* A flush has ended. */
void hub_flushed(struct hub *hub);

/* ---- client.c ---- */
struct client *client_find(struct hub *hub, uint64_t link);
struct client *client_by_id(struct hub *hub, const char *id);
/* Sends; data's reference is taken. */
void client_send(struct client *c, const char *type, json_t *data);
void client_send_error(struct client *c, const char *code, const char *message);
/* Ends the link with auth_error, or with no further message, and frees c. */
void client_refuse(struct client *c, const char *message);
void client_close(struct client *c, const char *why);
/* A newer link of its id takes its place: says so, and ends it without calling the host offline. */
void client_replaced(struct client *c);
/* Frees c whose link is gone (or about to be). */
void client_drop(struct client *c);
/* Begins the step that c is in (again). */
void client_go(struct client *c, enum step step);
/* A step's statements failed: waits, or ends the link. */
void client_failed(struct client *c, const struct store_error *error);
/* store_run or store_read; a refusal makes c wait. */
void client_run(struct client *c, const struct store_stmt *s, size_t n, store_cb *cb);
void client_read(struct client *c, const struct store_stmt *s, size_t n, store_cb *cb);
static inline const char *client_kind(const struct client *c)
{
	return c->gateway ? "gateway" : "agent";
}

/* ---- auth.c ---- */
/* The first message. */
void auth_message(struct client *c, const json_t *data);
void auth_find(struct client *c);
void auth_bind(struct client *c);
/* Whether a gateway may name these as its addresses: KM_EINVAL with a sentence. */
int auth_check_ips(char *const *named, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* A gateway's addresses as a PostgreSQL array: those that it names, or else that of its connection;
 * malloc'd. The texts have been checked and need no quotes. */
char *auth_reported_ips(char *const *named, size_t n, const struct km_addr *peer);
/* "trust" and "identity" for a link that is authenticated. */
void auth_tell_trust(struct client *c);
void auth_tell_identity(struct client *c, json_t *host);

/* ---- rotate.c ---- */
/* The message key_update of a live client. */
void rotate_update(struct client *c, const struct km_msg_key_update *m);
/* The change that tells the peers of c's next key has this revision. */
void rotate_told(struct client *c, int64_t revision);
/* Every second. */
void rotate_tick(struct client *c, int64_t now_ms);
/* The statement that makes its next key, if it is this one, the present one. */
struct store_stmt rotate_promote(const struct client *c, const char *key);

/* ---- join.c ---- */
/* The first message of a host with a join token. */
void join_message(struct client *c, const json_t *data);
void join_find(struct client *c);
void join_bind(struct client *c);

/* ---- rival.c: links of the same id at other controlds ---- */
#define RIVAL_NOTE_LEN 112
/* Fills in the statement that announces c, to be run with those of BIND; its result's first value
 * is c's number. */
void rival_bind(const struct client *c, struct store_stmt *s);
/* store_notes' callback. */
void rival_note(void *arg, const char *text);
/* Announces all links again when that is due; called every second. */
void rival_announce_due(struct hub *hub);
/* Whether links of this id were lost to others so often that a newcomer has to wait. */
bool rival_fights(struct hub *hub, const char *id);

/* ---- feed.c ---- */
void feed_sync(struct client *c);
/* Every second: lets those go on that were held. */
void feed_tick(struct client *c, int64_t now_ms);
/* store_listen's callback. */
void feed_wake(void *arg, const char *epoch, int64_t revision);

/* ---- report.c ---- */
/* Messages of a live client. */
void report_heartbeat(struct client *c);
void report_ack(struct client *c, const struct km_msg_config_ack *m);
/* What a client names in auth is applied and on its disk, though its ack may have been lost. */
void report_applied(struct client *c);
void report_status(struct client *c, const struct km_msg_status *m);
void report_certificate(struct client *c, const struct km_msg_certificate_obtained *m);
/* Forgets what was reported on a tunnel or a peer that is no more. */
void report_forget(struct client *c, const char *entity, const char *id);
/* The link of c, which was known, is gone. */
void report_gone(struct client *c);
/* Writes what has gathered, all in one transaction; called every second. Whether one is under way.
 */
bool report_flush(struct hub *hub);

/* ---- lease.c ---- */
/* The message lease: answered by lease_result, or not at all. */
void lease_asked(struct client *c, const struct km_msg_lease *m);

/* ---- chain.c: sans-I/O ---- */
struct chain_facts {
	char issuer[256];
	char fingerprint[65]; /* SHA-256 of the leaf, hex */
	int64_t not_after_ms; /* wall clock */
};
/* Reads the first certificate of a PEM chain. KM_EINVAL with a sentence; also when it holds a
 * private key. */
int chain_read(struct chain_facts *f, const char *pem, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
