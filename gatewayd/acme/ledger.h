/* SPDX-License-Identifier: MIT */
/* What is known of each certificate, over restarts: STATE/certificates.log, a log of JSON lines (0600) of
 * which the last for a name counts. It is written anew when it has become long. A torn last line is
 * dropped; a damaged file is set aside as *.broken with a warning, and what came before the damage
 * counts. Blocking; main loop only. */
#ifndef GATEWAYD_ACME_LEDGER_H
#define GATEWAYD_ACME_LEDGER_H

#include "gatewayd/acme/client.h"
#include <uthash.h>

#define LEDGER_HOLDERS_MAX 255
#define LEDGER_LINE_MAX (64 << 10)

/* One certificate (or the want of one). Texts are the entry's (ledger_text); NULL: none. */
struct ledger_entry {
	int64_t not_before_ms, not_after_ms; /* 0: there is none yet */
	uint8_t fingerprint[32];
	const char *issuer; /* the ledger's; NULL */
	/* RFC 9773: the id of this certificate, the window, the time chosen in it (0: none), when to ask. */
	char *ari_id;
	int64_t ari_start_ms, ari_end_ms, ari_ms, ari_again_ms;
	/* Failures in a row, the last one, and when it is tried again. */
	uint32_t failures;
	enum acme_cause cause;
	char *error;
	int64_t next_try_ms;
	char *order_url; /* under way; its key is on disk beside the certificate */
	/* Other gateways that have its key, 16 bytes each; others: it came from another gateway, so that any
	 * may have it. */
	uint8_t *holders;
	uint8_t n_holders;
	bool others;
	bool distrusted;    /* a revoked gateway had its key: to be replaced, then revoked */
	int64_t alerted_ms; /* when somebody was told last; 0: all is well as far as they know */

	bool used; /* not written: it may not be forgotten */
	bool owed; /* not written: what is in the file is older */
	UT_hash_handle hh;
	char name[]; /* DOMAIN, or DOMAIN+rsa */
};

struct ledger;

/* Reads PATH, if it is there. KM_EIO (it is there but cannot be read), KM_ENOMEM; each with a sentence. */
int ledger_open(struct ledger **out, const char *path, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* What could not be written before is tried once more. Accepts NULL. */
void ledger_free(struct ledger *l);
size_t ledger_count(const struct ledger *l);
/* Borrowed until ledger_forget, ledger_tidy or ledger_free. NULL: unknown. */
struct ledger_entry *ledger_find(const struct ledger *l, const char *name);
/* The same, made if it is unknown. NULL: no memory. */
struct ledger_entry *ledger_get(struct ledger *l, const char *name);
void ledger_each(const struct ledger *l, void (*each)(void *arg, struct ledger_entry *e), void *arg);

/* Replaces a text of an entry; NULL takes it away. Without memory it is taken away too. */
void ledger_text(char **at, const char *text);
/* Keeps each issuer's name once. */
const char *ledger_issuer(struct ledger *l, const char *issuer);
/* Notes a gateway that has the key; true: it was not known before. */
bool ledger_holder(struct ledger_entry *e, const uint8_t gateway[static 16]);
bool ledger_held_by(const struct ledger_entry *e, const uint8_t gateway[static 16]);
/* There is no certificate (any more): everything about one is cleared, failures stay. */
void ledger_no_certificate(struct ledger_entry *e);

/* Writes the entry; sync: it is on disk when this returns. KM_EIO (errno), KM_ENOMEM: it is owed then. */
int ledger_save(struct ledger *l, struct ledger_entry *e, bool sync);
/* Takes an entry out, on disk as well. */
void ledger_forget(struct ledger *l, struct ledger_entry *e);
/* Writes what is owed. 0: nothing is owed any more. KM_EIO (errno), KM_ENOMEM. */
int ledger_settle(struct ledger *l);
/* Forgets entries that nobody uses and whose certificate (and last failure) ended a month before now. */
void ledger_tidy(struct ledger *l, int64_t wall_ms);

#endif
