/* SPDX-License-Identifier: MIT */
/* The applied configuration of an agent or a gateway: what control has pushed, compared with what
 * runs (only differences reach the hooks), kept on disk as snapshot plus journal, and the start
 * when control is away. Single-threaded (the daemon's main loop). */
#ifndef KM_REPLICA_REPLICA_H
#define KM_REPLICA_REPLICA_H

#include "libkm/msg/msg.h"

struct km_replica;

/* was NULL: it is new; is NULL: it goes. Each returns 0, or an error with a sentence: the item then
 * counts as not applied (named in config_ack) but stays in the configuration; `was` stays what the
 * hook took last, and the next `config` or change of the item asks again. When an item goes that no
 * hook ever took, `was` is what was refused: hooks remove what they may not know. Things go in the
 * order tunnels, agents, gateways; they come and change in the order self, gateways, agents,
 * tunnels. No hook may call km_replica_take or km_replica_replay. */
struct km_replica_hooks {
	int (*agent_self)(void *arg, const struct km_msg_agent_self *was,
			  const struct km_msg_agent_self *is, struct km_errtext *err);
	int (*gateway_self)(void *arg, const struct km_msg_gateway_self *was,
			    const struct km_msg_gateway_self *is, struct km_errtext *err);
	int (*gateway)(void *arg, const struct km_msg_gateway *was, const struct km_msg_gateway *is,
		       struct km_errtext *err);
	int (*agent)(void *arg, const struct km_msg_agent *was, const struct km_msg_agent *is,
		     struct km_errtext *err);
	int (*tunnel)(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		      struct km_errtext *err);
	/* All differences of one message have been given; publish what they make together. */
	int (*settled)(void *arg, struct km_errtext *err);
};

/* Opens DIR/config.json and DIR/config.journal (DIR exists; both 0600) and gives their content to
 * the hooks: self, gateways, agents, tunnels, settled; what they refuse is logged. A torn last line
 * of the journal is dropped; a file that cannot be understood is set aside as *.broken with a
 * warning, and the replica starts with what stands before the damage: the snapshot and the
 * journal's good lines, or nothing (revision 0). Hooks (and hooks itself) may be NULL where a
 * daemon has no use for them. KM_EIO (DIR or a file in it cannot be read), KM_ENOMEM. */
int km_replica_open(struct km_replica **out, const char *dir, const struct km_replica_hooks *hooks,
		    void *arg, struct km_errtext *err) __attribute__((warn_unused_result));
/* What to name in `auth`; epoch is "" and revision 0 when nothing is known. */
const char *km_replica_epoch(const struct km_replica *r);
int64_t km_replica_revision(const struct km_replica *r);

/* What was on disk has been written by a program that understood something else of a configuration,
 * an older one say: it is applied as it stands, but what that program left out is missing. Until
 * the next `config`; to have one, name no revision in `auth`. */
bool km_replica_partial(const struct km_replica *r);

/* Takes a `config` or one of the nine `*_create|update|delete` messages: applies it, syncs it to
 * disk, and gives the `config_ack` to send (*ack, the caller's reference; NULL with an error).
 * Returns 0 also when single items failed: a hook refused it, or it is malformed (control may be
 * newer than we are), and then what it was so far stays. ack.success is false and ack.error names
 * every item that stands refused then, those of earlier messages too (as many as fit). KM_EGAP: a
 * revision is missing or the epoch is another (nothing applied, ask anew by reconnecting with
 * revision 0 if the epoch differs); a change that is already applied gives 0 and an ack. KM_EINVAL:
 * malformed, err says where. KM_EFULL: more things than a `config` may have; KM_ENOMEM. KM_EIO:
 * applied but not on disk (disk full …): no ack, tried again with the next message and with
 * km_replica_retry. KM_ENOTFOUND: not a message of the replica's. */
int km_replica_take(struct km_replica *r, const char *type, const json_t *data, json_t **ack,
		    struct km_errtext *err) __attribute__((warn_unused_result));
/* Tries again to write what is applied but not on disk. 0: nothing is missing there now, and *ack
 * is the config_ack that was owed (the caller's reference; NULL: none was). KM_EIO, KM_ENOMEM. */
int km_replica_retry(struct km_replica *r, json_t **ack, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* What is applied now; borrowed until the next take. NULL when there is none. */
const struct km_msg_agent_self *km_replica_agent_self(const struct km_replica *r);
const struct km_msg_gateway_self *km_replica_gateway_self(const struct km_replica *r);
const struct km_msg_tunnel *km_replica_tunnel(const struct km_replica *r, const char *id);
const struct km_msg_agent *km_replica_agent(const struct km_replica *r, const char *id);
const struct km_msg_gateway *km_replica_gateway(const struct km_replica *r, const char *id);
/* Calls each for every item; the items must not be changed meanwhile. */
void km_replica_each_tunnel(const struct km_replica *r,
			    void (*each)(void *arg, const struct km_msg_tunnel *t), void *arg);
void km_replica_each_agent(const struct km_replica *r,
			   void (*each)(void *arg, const struct km_msg_agent *a), void *arg);
void km_replica_each_gateway(const struct km_replica *r,
			     void (*each)(void *arg, const struct km_msg_gateway *g), void *arg);
/* Gives everything to the hooks again, as new (after the private network had to be made anew). The
 * first error of a hook with a sentence about all of them; the other items have been given. */
int km_replica_replay(struct km_replica *r, struct km_errtext *err);
void km_replica_free(struct km_replica *r);

#endif
