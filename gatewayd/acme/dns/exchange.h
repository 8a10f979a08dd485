/* SPDX-License-Identifier: MIT */
/* One DNS message to one server and its answer: by UDP, again after 1 and 2 s, and by TCP where the
 * answer is truncated or the message too long. */
#ifndef GATEWAYD_ACME_DNS_EXCHANGE_H
#define GATEWAYD_ACME_DNS_EXCHANGE_H

#include "libkm/base/addr.h"
#include <event2/event.h>
#include <stddef.h>
#include <stdint.h>

struct dns_exchange;
/* msg (n bytes, copied) begins with its id. done comes once, never before this returns, and the
 * handle is gone then: the answer with the same id, borrowed, at most 64 KiB; or p NULL and why.
 * Within 11 s. NULL: no memory. */
struct dns_exchange *
dns_exchange(struct event_base *base, const struct km_addr *to, uint16_t port, const void *msg,
	     size_t n, void (*done)(void *arg, const uint8_t *p, size_t len, const char *failed),
	     void *arg);
/* done is not called any more. Accepts NULL. */
void dns_exchange_cancel(struct dns_exchange *x);

#endif
