/* SPDX-License-Identifier: MIT */
/* Inside of the manager of certificates (acme.h); nobody else includes it. acme.c is the public face and
 * the clock, names.c what is known and wanted, attempt.c (with attempt_begin.c and attempt_order.c) one
 * order from preflight to certificate, present.c its challenges, share.c what gateways say to each other,
 * distrust.c what is to be revoked, account.c the account, alert.c and status.c what people see. Main loop
 * only. */
#ifndef GATEWAYD_ACME_MANAGER_H
#define GATEWAYD_ACME_MANAGER_H

#include "gatewayd/acme/acme.h"
#include "gatewayd/acme/backoff.h"
#include "gatewayd/acme/cache.h"
#include "gatewayd/acme/dns/dns.h"
#include "gatewayd/acme/http.h"
#include "gatewayd/acme/ledger.h"
#include "gatewayd/acme/schedule.h"
#include "gatewayd/acme/throttle.h"
#include "libkm/base/metrics.h"
#include <openssl/evp.h>
#include <uthash.h>

struct attempt;
struct alert;

/* ---- names ---- */

enum name_phase {
	NAME_IDLE,  /* until due */
	NAME_WAITS, /* for another gateway, which orders it; until due at most */
	NAME_BUSY,  /* an attempt is under way */
};

/* One certificate that tunnels want: a domain and a kind of key. */
struct name {
	struct acme *a;
	struct ledger_entry *e;
	unsigned wants;
	bool rsa;
	enum name_phase phase;
	struct due due;          /* wall clock; in the schedule unless it is busy */
	struct attempt *attempt; /* of a busy one */
	bool looked;             /* what is on disk is known */
	bool own;                /* the operator's own file serves it */
	bool asked;              /* a stranger's handshake waits */
	bool warned;             /* of its end */
	bool overdue;            /* another gateway was to order it and did not */
	bool meeting;            /* it waits until the other gateways have been met */
	int64_t waits_ms;        /* wall clock: since when for another gateway; 0: not */
	int64_t denied_ms;       /* likewise: since when others deny what they do not do */
	unsigned fruitless;      /* preflights in a row that were not fine */
	unsigned missed;         /* fetched in vain, since it was last obtained or tried in earnest */
	int64_t tried_ms;        /* monotonic: the last preflight, or look */
	int64_t held_ms;         /* wall clock: nothing is begun before; not kept over restarts */
	char *why;               /* that it is held; NULL */
	char *unwritten;         /* PEM that the disk does not take; NULL */
	bool unwritten_fetched;  /* from another gateway: */
	uint8_t unwritten_from[16];
	uint64_t changed;
	UT_hash_handle hh; /* by e->name */
	char domain[];
};

struct acme {
	struct acme_opts o;
	const struct gw_settings *s;
	char *dir, *revoke_dir; /* folders */
	const char *directory;  /* URL */
	struct ledger *ledger;
	struct throttle *throttle;
	struct schedule *due;
	struct name *names;
	struct attempt *attempts;
	struct ticket *tickets;
	size_t at[16]; /* attempts at each step */
	struct clock_watch clock;
	struct outage outage;
	unsigned refused;         /* by the CA's limits, in a row and for any names */
	int64_t refused_until_ms; /* wall clock: no order before */
	bool begun, quiet, read_only, revoking;
	void (*quiet_done)(void *arg);
	void *quiet_arg;
	struct event *quiet_timer;
	uint64_t counter;
	int64_t revoke_again_ms; /* monotonic */
	int64_t tidied_ms;       /* likewise */

	struct acme_http *http;
	struct dns *dns;
	struct dns_provider *provider;
	struct acme_client *client;
	EVP_PKEY *account_key;
	struct event *tick, *every, *kick, *served_event;
	struct km_mailbox *served;
	struct mesh *mesh;
	struct heard *heard; /* announced, not wanted so far */
	struct telling *telling; /* gateways that have come, and how far they have been told */
	struct event *tell;
	struct km_addr *addrs;
	size_t n_addrs;
	struct alert *alert;
	struct km_metric *m_orders, *m_renewals, *m_fetched, *m_not_here, *m_revoked;
};

/* ---- acme.c ---- */
/* The CA has answered something. */
void acme_answered(struct acme *a);
/* Sets the timer to what is due next. */
void acme_arm(struct acme *a);
/* Takes free slots for what waits for one, soon. */
void acme_kick(struct acme *a);

/* ---- names.c ---- */
struct name *name_find(const struct acme *a, const char *domain, bool rsa);
/* Wants it; NULL: no memory. */
struct name *name_want(struct acme *a, const char *domain, bool rsa);
void name_unwant(struct name *n);
void name_free(struct name *n);
/* Its status is another one now. */
void name_touch(struct name *n);
/* Looks on disk: for the operator's own file, and for one obtained (also when it is known). */
void name_look(struct name *n);
/* Sets when something is to be done for it next. */
void name_plan(struct name *n);
/* That moment has come. */
void name_due(struct name *n);
/* Not before that (wall clock), for a reason (NULL: none to tell). */
void name_hold(struct name *n, int64_t until_ms, const char *why);
/* A handshake that waits is told, if there is one; all are told of what has come. */
void name_tell(struct name *n, bool ok);
/* An attempt has failed. */
void name_failed(struct name *n, const struct acme_problem *p);
/* A certificate with its key has come, from the CA or (from) another gateway: it is written and told, or
 * kept until it can be written. Takes pem over. Whether it could be used. */
bool name_came(struct name *n, char *pem, const uint8_t *from);
/* Whether it has a certificate that is not over. */
bool name_valid(const struct name *n, int64_t wall_ms);
/* When it is to be obtained or renewed by itself: 0: at once. */
int64_t name_renewal(const struct name *n);
int64_t name_lifetime(const struct name *n); /* 0: none */
/* The file of the key of an order under way; the caller frees. */
char *name_order_file(const struct name *n);

/* ---- attempt.c, attempt_begin.c ---- */
enum attempt_step {
	STEP_PREFLIGHT, /* the DNS is asked */
	STEP_READY,	/* waits for a slot */
	STEP_CLAIM,	/* other gateways are asked, */
	STEP_LEASE,	/* control is told, */
	STEP_ORDER,	/* the CA does its work */
	STEP_ARI,
	STEP_FETCH,
	STEP_REVOKE,
};
struct present;
struct attempt {
	struct acme *a;
	struct name *n; /* NULL: of a revocation */
	enum attempt_step step;
	bool renewal;	/* known to the CA as one: it is not counted */
	bool counted;	/* the throttle has taken tokens */
	unsigned orders; /* made in it */
	struct dns_ask *ask;
	struct acme_job *job;
	struct acme_http_call *call;
	struct event *timer;
	EVP_PKEY *key;
	struct present *presents;
	size_t n_presents, presenting;
	char *present_failed;
	uint8_t from[16]; /* fetched from this gateway */
	bool leased;
	char *file; /* of a revocation */
	struct attempt *prev, *next;
};
struct attempt *attempt_new(struct acme *a, struct name *n, enum attempt_step step);
/* Ends it from any state; its name is idle then. Accepts NULL. */
void attempt_drop(struct attempt *t);
void attempt_step(struct attempt *t, enum attempt_step step);
/* Begins to obtain or renew a name, or has it wait if now is not the time. */
void attempt_begin(struct name *n);
/* Begins what is ready, as far as there are slots. */
void attempt_ready(struct acme *a);
/* Whether there is room for another preflight. */
bool attempt_room(const struct acme *a);
/* Asks the CA when to renew (RFC 9773). */
void attempt_ari(struct name *n);
/* Whether an order has been asked for and the CA has not answered yet. */
bool attempt_unanswered(const struct acme *a);
/* Goes on with its job as far as it can. */
void attempt_pump(struct attempt *t);
/* The same for all that wait for each other (client.h). */
void attempt_pump_all(struct acme *a);
/* The CA has fetched this token. */
void attempt_hint(struct acme *a, const char *token);

/* What an attempt has asked of who cannot be told that it is over: a ticket, given as the arg; ticket_take
 * gives the attempt, or NULL when that is over, and frees the ticket. */
struct ticket *ticket_new(struct attempt *t);
struct attempt *ticket_take(struct ticket *ticket);
void ticket_drop_all(struct acme *a);

/* ---- present.c ---- */
/* Puts up the challenges of the job (PRESENT), then tells it and pumps. */
void present_begin(struct attempt *t);
void present_clear(struct attempt *t);
/* Calls each for every challenge of ours that is open for CAs. */
void present_each(struct acme *a, void (*each)(void *arg, const struct challenge *ch), void *arg);
bool present_has(const struct attempt *t, const char *token);

/* ---- account.c ---- */
/* The client of the CA is there, or is made. KM_… with a sentence. */
int account_ready(struct acme *a, struct km_errtext *err) __attribute__((warn_unused_result));
void account_free(struct acme *a);

/* ---- share.c ---- */
/* Whether another gateway is the one to order this name now; it waits then. */
bool share_leaves(struct name *n);
/* Another one has claimed or leased it. */
void share_wait(struct name *n, const char *why);
void share_announce(const struct name *n);
/* Somebody has announced it before it was wanted: it is fetched. */
bool share_heard(struct name *n);
/* Another gateway says that it orders it: whether that is still to be believed. */
bool share_denied(struct name *n);
/* n will not be there any more. */
void share_gone(struct name *n);
void share_free(struct acme *a);

/* ---- distrust.c ---- */
/* Keeps what there is now of a domain, to be revoked once it has been replaced. KM_EIO … */
int revoke_keep(struct acme *a, const char *domain, bool rsa) __attribute__((warn_unused_result));
/* Revokes what is kept, one after the other. */
void revoke_go(struct acme *a);
void revoke_over(struct attempt *t, bool ok);

/* ---- alert.c ---- */
enum alert_event { ALERT_FAILED, ALERT_EXPIRING, ALERT_RECOVERED };
int alert_new(struct alert **out, struct acme *a) __attribute__((warn_unused_result));
void alert_free(struct alert *al);
/* Tells people, if they want to be told and have not been today. */
void alert_tell(struct name *n, enum alert_event event, const char *text);

/* ---- status.c ---- */
void status_start(struct acme *a);
void status_stop(struct acme *a);
void status_failed(enum acme_cause cause);

#endif
