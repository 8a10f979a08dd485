/* SPDX-License-Identifier: MIT */
/* The agent's own list of targets: what control may ask for, and nothing else. Immutable once made,
 * so it may be used from any thread. */
#ifndef AGENTD_FORWARD_ALLOW_H
#define AGENTD_FORWARD_ALLOW_H

#include "libkm/base/addr.h"
#include "libkm/base/err.h"

#define ALLOW_DEFAULT "127.0.0.0/8:*, [::1]:*"

struct allow;

/* Each entry is one of
 *   ADDRESS:PORTS  ADDRESS/BITS:PORTS  [V6]:PORTS  [V6]/BITS:PORTS
 *   NAME:PORTS     a target that names exactly this host, whatever it resolves to;
 *                  `localhost` stands for 127.0.0.0/8 and ::1
 *   unix:/path     exactly this socket
 * with PORTS `*`, `80` or `8000-8100`. KM_EINVAL with a sentence that quotes the entry. */
int allow_new(struct allow **out, const char *const *entries, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));
void allow_free(struct allow *a);
/* What is wrong with one entry, in static storage; NULL: nothing. */
const char *allow_check(const char *entry);

/* Whether this resolved address may be dialled for a target that named `host` (NULL or "" for an
 * address literal). IPv4-mapped IPv6 addresses are judged as IPv4. */
bool allow_addr(const struct allow *a, const char *host, const struct km_addr *addr, uint16_t port);
bool allow_unix(const struct allow *a, const char *path);

enum allow_verdict { ALLOW_NO, ALLOW_YES, ALLOW_WHEN_RESOLVED };
/* What can be said about a target before its name is resolved. */
enum allow_verdict allow_target(const struct allow *a, const struct km_target *t);

/* The plain IPv4 form of an IPv4-mapped IPv6 address; others as they are. */
struct km_addr allow_unmapped(const struct km_addr *a);

#endif
