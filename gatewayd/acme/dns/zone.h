/* SPDX-License-Identifier: MIT */
/* Which zone a name lies in, and the addresses of the zone's servers. */
#ifndef GATEWAYD_ACME_DNS_ZONE_H
#define GATEWAYD_ACME_DNS_ZONE_H

#include "gatewayd/acme/dns/query.h"

#define DNS_SERVERS_MAX 16

struct dns_zone {
	char name[DNS_NAME_STRLEN];
	struct km_addr
	    servers[DNS_SERVERS_MAX]; /* each address of each NS; further ones are left out */
	size_t n;
};
struct dns_zone_find;
/* The zone is the nearest name upwards with an SOA record. servers: their addresses are wanted too.
 * done comes once, never before this returns, and the handle is gone then; failed is NULL or a
 * sentence. NULL: no memory. */
struct dns_zone_find *
dns_zone_find(struct dns *d, const char *name, bool servers,
	      void (*done)(void *arg, const struct dns_zone *z, const char *failed), void *arg);
void dns_zone_cancel(struct dns_zone_find *f);

#endif
