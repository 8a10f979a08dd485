/* SPDX-License-Identifier: MIT */
/* The receiving side: bursts of messages from the socket, opened into a buffer, merged
 * into super-packets without copying, and written to the TUN. Handshake messages go to the control
 * thread's queue, which may overflow: floods of them stop nothing here. */
#include "libkm/wg/engine/ecn.h"
#include "libkm/wg/engine/engine_priv.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#define BATCH 8
#define MESSAGE_ROOM 65536
#define PLAIN_ROOM (BATCH * MESSAGE_ROOM) /* written out when it is full */

struct wg_receiver {
	struct wg_engine *e;
	struct wg_crypto *crypto;
	struct wg_aead *aead;
	struct wg_self self; /* only its mac1_key */
	int64_t now_ms;
	struct wg_merge merge;
	/* the last inner source */
	uint8_t src[16];
	size_t nsrc;
	uint64_t version;
	const struct wg_peer *owner;

	struct mmsghdr msg[BATCH];
	struct iovec iov[BATCH];
	struct sockaddr_storage from[BATCH];
	union wg_cmsg cmsg[BATCH];
	size_t used; /* of plain */
	uint8_t room[BATCH][WG_AEAD_LEAD + MESSAGE_ROOM] __attribute__((aligned(64)));
	uint8_t plain[PLAIN_ROOM] __attribute__((aligned(64)));
};

struct wg_receiver *wg_receiver_new(struct wg_engine *e)
{
	struct wg_receiver *r = aligned_alloc(64, (sizeof(*r) + 63) / 64 * 64);

	if (r == NULL)
		return NULL;
	memset(r, 0, offsetof(struct wg_receiver, room));
	r->e = e;
	r->merge.udp_too = e->uso;
	r->crypto = wg_crypto_new();
	r->aead = wg_aead_new();
	if (r->crypto != NULL && r->aead != NULL)
		return r;
	wg_receiver_free(r);
	return NULL;
}

void wg_receiver_free(struct wg_receiver *r)
{
	if (r == NULL)
		return;
	wg_crypto_free(r->crypto);
	wg_aead_free(r->aead);
	free(r);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const uint8_t *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

/* ---- handshake messages ---- */

static bool mac1_ok(struct wg_receiver *r, const uint8_t *msg, size_t n)
{
	pthread_mutex_lock(&r->e->self_lock);
	memcpy(r->self.mac1_key, r->e->mac1_key, WG_HASH);
	pthread_mutex_unlock(&r->e->self_lock);
	return wg_mac1_ok(r->crypto, &r->self, msg, n);
}

static void on_handshake(struct wg_receiver *r, const struct wg_endpoint *from, const uint8_t *msg,
			 size_t n)
{
	struct wg_engine *e = r->e;
	unsigned tail = atomic_load_explicit(&e->queue_tail, memory_order_relaxed);
	unsigned head = atomic_load_explicit(&e->queue_head, memory_order_acquire);
	struct wg_queued *q = &e->queue[tail % WG_QUEUE];

	if (tail - head == WG_QUEUE || !wg_core_expects(msg, n) ||
	    (n != WG_COOKIE_REPLY_LEN && !mac1_ok(r, msg, n)))
		return;
	q->from = *from;
	q->n = (uint16_t)n;
	memcpy(q->msg, msg, n);
	atomic_store(&e->queue_tail, tail + 1);
	if (atomic_load(&e->queue_head) == tail)
		wg_ring(e->wake_control); /* else it will look again by itself */
}

/* ---- data ---- */

static void write_out(struct wg_receiver *r)
{
	int pieces = wg_merge_end(&r->merge);
	ssize_t n;

	if (pieces == 0)
		return;
	do
		n = writev(r->e->tun, r->merge.iov, pieces);
	while (n < 0 && errno == EINTR);
	/* Otherwise the device is down, or full: packets get lost. */
}

/* Whether the inner source belongs to the peer that sent it. */
static bool source_ok(struct wg_receiver *r, const struct wg_peer *p, const struct wg_ip *ip)
{
	struct wg_core *c = r->e->core;
	uint64_t version = atomic_load_explicit(&c->allowed.version, memory_order_acquire);

	if (r->version != version || r->nsrc != ip->naddr ||
	    memcmp(r->src, ip->src, ip->naddr) != 0) {
		r->owner = wg_path_route(c, ip->src, ip->naddr);
		r->version = version;
		r->nsrc = ip->naddr;
		memcpy(r->src, ip->src, ip->naddr);
	}
	return r->owner == p;
}

static void deliver(struct wg_receiver *r, const struct wg_peer *p, uint8_t tos, uint8_t *pkt,
		    size_t n)
{
	struct wg_ip ip;

	if (!wg_ip_parse(&ip, pkt, n) || !source_ok(r, p, &ip) ||
	    ((tos & 3) != 0 && !wg_ecn_decap(pkt, tos)))
		return;
	while (!wg_merge_add(&r->merge, pkt, ip.total))
		write_out(r);
}

/* A place for a plaintext of n bytes and what is written before it. */
static uint8_t *plain_place(struct wg_receiver *r, size_t n)
{
	if (r->used + WG_AEAD_LEAD + n > PLAIN_ROOM) {
		write_out(r);
		r->used = 0;
	}
	return r->plain + r->used;
}

/* What one message brought under one session, for its timers and counters. */
struct tally {
	struct wg_session *session;
	uint64_t bytes;
	bool data;
	uint8_t tos; /* of the outer packets */
};

static void settle(struct wg_receiver *r, struct tally *t, const struct wg_endpoint *from)
{
	if (t->session != NULL)
		wg_path_received(t->session, from, t->data, t->bytes, r->now_ms);
	*t = (struct tally){.session = NULL, .tos = t->tos};
}

static void on_data(struct wg_receiver *r, struct tally *t, const struct wg_endpoint *from,
		    uint8_t *p, size_t n)
{
	uint32_t index = get32(p + 4);
	uint64_t counter = get64(p + 8);
	struct wg_session *s = t->session;
	uint8_t *out;

	if (s == NULL || s->index.value != index) {
		settle(r, t, from);
		s = wg_path_receiver(r->e->core, index, r->now_ms);
	}
	if (s == NULL || counter >= WG_REJECT_AFTER_MESSAGES)
		return;
	p += WG_DATA_HEADER;
	n -= WG_DATA_OVERHEAD;
	out = plain_place(r, n);
	if (!wg_aead_open(r->aead, s->recv_key, counter, p, n, out) ||
	    !wg_replay_accept(&s->replay, counter))
		return;
	t->session = s;
	t->bytes += n + WG_DATA_OVERHEAD;
	if (n == 0)
		return; /* only to say that the peer is there */
	t->data = true;
	r->used += (WG_AEAD_LEAD + n + 63) & ~(size_t)63;
	deliver(r, s->peer, t->tos, out + WG_AEAD_LEAD, n);
}

static void on_message(struct wg_receiver *r, struct mmsghdr *m, uint8_t *p)
{
	size_t left = m->msg_len, step, n;
	struct tally t = {.session = NULL};
	struct wg_endpoint from;

	wg_endpoint_from_sa(&from, m->msg_hdr.msg_name);
	wg_cmsg_get(&m->msg_hdr, &from, &step, &t.tos);
	if (step == 0)
		step = left;
	for (; left > 0; p += n, left -= n) {
		n = left < step ? left : step;
		if (n >= WG_DATA_OVERHEAD && get32(p) == WG_DATA_TYPE)
			on_data(r, &t, &from, p, n);
		else
			on_handshake(r, &from, p, n);
	}
	settle(r, &t, &from);
}

static int receive(struct wg_receiver *r)
{
	for (int i = 0; i < BATCH; i++) {
		r->iov[i] = (struct iovec){r->room[i] + WG_AEAD_LEAD, MESSAGE_ROOM};
		r->msg[i].msg_hdr = (struct msghdr){.msg_name = &r->from[i],
						    .msg_namelen = sizeof(r->from[i]),
						    .msg_iov = &r->iov[i],
						    .msg_iovlen = 1,
						    .msg_control = r->cmsg[i].room,
						    .msg_controllen = sizeof(r->cmsg[i].room)};
	}
	return recvmmsg(r->e->udp, r->msg, BATCH, MSG_DONTWAIT, NULL);
}

enum wg_found wg_receiver_turn(struct wg_receiver *r)
{
	int n = receive(r);
	size_t bytes = 0;

	if (n <= 0)
		return WG_NOTHING;
	r->now_ms = wg_now_ms();
	urcu_memb_read_lock();
	for (int i = 0; i < n; i++) {
		bytes += r->msg[i].msg_len;
		on_message(r, &r->msg[i], r->room[i] + WG_AEAD_LEAD);
	}
	write_out(r);
	r->used = 0;
	WG_READER_DONE(r->e);
	urcu_memb_read_unlock();
	return n == BATCH || bytes > WG_LITTLE_BYTES ? WG_MUCH : WG_LITTLE;
}

void wg_receiver_errors(struct wg_receiver *r)
{
	struct wg_engine *e = r->e;
	unsigned tail = atomic_load_explicit(&e->news_tail, memory_order_relaxed);
	struct wg_pmtu_news n;
	bool any = false;

	for (int i = 0; i < WG_NEWS && wg_udp_error(e->udp, &n); i++) {
		if (n.to.port == 0 ||
		    tail - atomic_load_explicit(&e->news_head, memory_order_acquire) == WG_NEWS)
			continue;
		e->news[tail++ % WG_NEWS] = n;
		any = true;
	}
	atomic_store_explicit(&e->news_tail, tail, memory_order_release);
	if (any)
		wg_ring(e->wake_control);
}
