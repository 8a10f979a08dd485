/* SPDX-License-Identifier: MIT */
/* The sending side: packets from the TUN, cut into segments that are written straight into the
 * output buffer, sealed there, and sent in runs of equal length, one system call for each burst. */
#include "libkm/base/err.h"
#include "libkm/wg/engine/ecn.h"
#include "libkm/wg/engine/engine_priv.h"
#include "libkm/wg/engine/toobig.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#define ALIGN_IP 6  /* so that the IP header behind the vnet header is aligned */
#define OUT_LEAD 64 /* before the first packet: sealing works there */
#define OUT_ROOM (OUT_LEAD + 160 * 1024)
#define OUT_ENOUGH (32 * 1024) /* sent without waiting for more */
#define RUNS 64
#define ANSWERS 50   /* to senders of packets that are too large: a second, and at once */
#define TELL_MS 1000 /* and to a stream, whose segments are cut all the same */
#define STAGED_PACKETS 128
#define TRIES 5                /* to send what may have met an error of another packet */
#define STAGED_BYTES (1 << 20) /* per peer; super-packets are large */

/* Segments of one length for one peer, one after the other; only the last may be shorter. */
struct run {
	struct wg_peer *peer;
	struct wg_endpoint to;
	struct sockaddr_storage sa;
	socklen_t sa_len;
	size_t at, len, stride;
	unsigned count, tries;
	uint8_t tos;
	bool fragment; /* IP may cut it */
};
struct staged {
	struct staged *next;
	size_t n;
	uint8_t data[]; /* vnet header and packet */
};
struct stage {
	struct staged *head, **tail;
	size_t packets, bytes;
};

struct wg_sender {
	struct wg_engine *e;
	struct wg_aead *aead;
	pthread_mutex_t lock; /* either thread may take a turn */
	int64_t now_ms;
	bool dry;  /* the TUN had no more */
	bool gone; /* the device */
	/* the last destination */
	uint8_t dst[16];
	size_t ndst;
	uint64_t version;
	struct wg_peer *peer;

	int64_t answers_ms; /* when answers_left was filled */
	unsigned answers_left;
	struct run runs[RUNS];
	unsigned n_runs;
	size_t used;
	struct mmsghdr msg[RUNS];
	struct iovec iov[RUNS];
	union wg_cmsg cmsg[RUNS];
	uint8_t in[ALIGN_IP + WG_VNET_LEN + WG_SUPER_MAX + 1] __attribute__((aligned(64)));
	uint8_t whole[WG_SUPER_MAX]; /* what is too large, complete */
	uint8_t out[OUT_ROOM] __attribute__((aligned(64)));
};

struct wg_sender *wg_sender_new(struct wg_engine *e)
{
	struct wg_sender *s = aligned_alloc(64, (sizeof(*s) + 63) / 64 * 64);

	if (s == NULL)
		return NULL;
	memset(s, 0, offsetof(struct wg_sender, in));
	s->e = e;
	s->used = OUT_LEAD;
	pthread_mutex_init(&s->lock, NULL);
	s->aead = wg_aead_new();
	if (s->aead != NULL)
		return s;
	wg_sender_free(s);
	return NULL;
}

void wg_sender_free(struct wg_sender *s)
{
	if (s == NULL)
		return;
	wg_aead_free(s->aead);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* ---- output ---- */

static void fill_message(struct wg_sender *s, unsigned i, const struct run *r, size_t at,
			 size_t len, unsigned count)
{
	struct msghdr *h = &s->msg[i].msg_hdr;

	s->iov[i] = (struct iovec){s->out + at, len};
	memset(h, 0, sizeof(*h));
	h->msg_name = (void *)&r->sa;
	h->msg_namelen = r->sa_len;
	h->msg_iov = &s->iov[i];
	h->msg_iovlen = 1;
	wg_cmsg_put(h, &s->cmsg[i], !s->e->v4_only, &r->to, count < 2 ? 0 : (uint16_t)r->stride,
		    r->tos);
}

/* Segment by segment, and cut by IP where the run allows it; what cannot be sent is lost, as
 * packets are. */
static void send_singly(struct wg_sender *s, const struct run *r)
{
	size_t at = r->at, end = r->at + r->len;
	unsigned n, done, tries;
	int rc;

	if (r->fragment)
		wg_udp_fragment(s->e->udp, s->e->v4_only, true);
	while (at < end) {
		for (n = 0; n < RUNS && at < end; n++, at += r->stride)
			fill_message(s, n, r, at, end - at < r->stride ? end - at : r->stride, 1);
		for (done = tries = 0; done < n;) {
			rc = sendmmsg(s->e->udp, s->msg + done, n - done, 0);
			if (rc <= 0 && ++tries < TRIES)
				continue;
			if (rc <= 0 && errno == EMSGSIZE)
				wg_path_refused(r->peer);
			done += rc > 0 ? (unsigned)rc : 1;
			tries = 0;
		}
	}
	if (r->fragment)
		wg_udp_fragment(s->e->udp, s->e->v4_only, false);
}

static bool singly(const struct wg_sender *s, const struct run *r)
{
	return r->fragment ||
	       (r->count > 1 && !atomic_load_explicit(&s->e->gso, memory_order_relaxed));
}

/* Whether a run that was refused may be sent again as it is now. An error may be news of an earlier
 * packet, which the socket tells whoever comes next; and the address that the run is to leave from
 * may be gone (EINVAL, or ENETUNREACH and others, as the kernel has it). */
static bool again(struct run *r, int error)
{
	if (error == EIO)
		return false;
	if (error != EMSGSIZE && wg_endpoint_has_src(&r->to) && (error == EINVAL || r->tries > 0)) {
		memset(r->to.src, 0, sizeof(r->to.src));
		wg_endpoint_forget_src(&r->peer->endpoint);
		return true;
	}
	return error != EINVAL && ++r->tries < TRIES;
}

/* A run was refused: a device without checksum offload, or a first link that is too narrow for the
 * packets. They are sealed already, so IP cuts these; the next ones will be smaller. */
static void refused(struct wg_sender *s, struct run *r, int error)
{
	if (error == EMSGSIZE || error == EINVAL) {
		wg_path_refused(r->peer);
		r->fragment = true;
	} else if (error == EIO && r->count > 1) {
		atomic_store(&s->e->gso, false);
	} else {
		return;
	}
	send_singly(s, r);
}

/* Sends the runs [from, to), none of which goes singly. */
static void send_runs(struct wg_sender *s, unsigned from, unsigned to)
{
	int rc, error;

	for (unsigned i = from; i < to; i++)
		fill_message(s, i, &s->runs[i], s->runs[i].at, s->runs[i].len, s->runs[i].count);
	while (from < to) {
		rc = sendmmsg(s->e->udp, s->msg + from, to - from, 0);
		if (rc > 0) {
			from += (unsigned)rc;
		} else if (errno != EINTR) {
			/* send_singly uses the same room for messages: the rest is made again. */
			error = errno;
			if (!again(&s->runs[from], error))
				refused(s, &s->runs[from++], error);
			send_runs(s, from, to);
			return;
		}
	}
}

static void flush(struct wg_sender *s)
{
	unsigned i, from = 0;

	for (i = 0; i < s->n_runs; i++) {
		if (!singly(s, &s->runs[i]))
			continue;
		send_runs(s, from, i);
		send_singly(s, &s->runs[i]);
		from = i + 1;
	}
	send_runs(s, from, s->n_runs);
	s->n_runs = 0;
	s->used = OUT_LEAD;
}

/* A place for an outer packet of n bytes to this peer. */
static uint8_t *place(struct wg_sender *s, struct wg_peer *p, size_t n, uint8_t tos, bool fragment)
{
	struct run *r = s->n_runs ? &s->runs[s->n_runs - 1] : NULL;
	uint8_t *at;

	if (s->used + n > OUT_ROOM) {
		flush(s);
		r = NULL;
	}
	if (r == NULL || r->peer != p || r->tos != tos || r->fragment != fragment ||
	    r->count == WG_UDP_SEGMENTS || n > r->stride || r->len % r->stride != 0 ||
	    r->len + n > WG_UDP_MAX) {
		if (s->n_runs == RUNS)
			flush(s);
		r = &s->runs[s->n_runs++];
		r->peer = p;
		wg_endpoint_load(&p->endpoint, &r->to);
		r->sa_len = wg_endpoint_to_sa(&r->to, &r->sa, s->e->v4_only);
		r->at = s->used;
		r->len = r->count = r->tries = 0;
		r->stride = n;
		r->tos = tos;
		r->fragment = fragment;
	}
	at = s->out + s->used;
	s->used += n;
	r->len += n;
	r->count++;
	return at;
}

/* ---- sealing ---- */

static void put_header(uint8_t *h, uint32_t index, uint64_t counter)
{
	memset(h, 0, 4);
	h[0] = WG_DATA_TYPE;
	for (int i = 0; i < 4; i++)
		h[4 + i] = (uint8_t)(index >> (8 * i));
	for (int i = 0; i < 8; i++)
		h[8 + i] = (uint8_t)(counter >> (8 * i));
}

/* n bytes stand behind the header's place; pads, seals. */
static void seal(struct wg_sender *s, struct wg_session *k, uint8_t *at, size_t n, size_t padded)
{
	memset(at + WG_DATA_HEADER + n, 0, padded - n);
	put_header(at, k->remote_index, k->sent);
	wg_aead_seal(s->aead, k->send_key, k->sent, at + WG_DATA_HEADER, padded);
	k->sent++;
}

/* To a multiple of 16, but not beyond the MTU. carry: what the path carries; 0: no limit. */
static size_t padded_len(const struct wg_sender *s, size_t n, size_t carry)
{
	size_t mtu = atomic_load_explicit(&s->e->mtu, memory_order_relaxed);
	size_t up = (n + 15) & ~(size_t)15;

	if (carry != 0 && carry < mtu)
		mtu = carry;
	return up <= mtu ? up : n < mtu ? mtu : n;
}

static void keepalive(struct wg_sender *s, struct wg_peer *p, struct wg_session *k)
{
	seal(s, k, place(s, p, WG_DATA_OVERHEAD, 0, false), 0, 0);
	wg_path_sent(p, false, WG_DATA_OVERHEAD, s->now_ms);
}

/* Where a packet goes and how. */
struct way {
	struct wg_peer *peer;
	struct wg_session *session;
	size_t carry; /* the largest packet that the path carries; 0: no limit is known */
	bool probed;  /* that is a probe's finding */
};

static struct way way_to(struct wg_peer *p, struct wg_session *k)
{
	uint32_t carry = atomic_load_explicit(&p->carry, memory_order_relaxed);

	return (struct way){p, k, carry & ~WG_CARRY_PROBED, (carry & WG_CARRY_PROBED) != 0};
}

/* Seals and places every piece. */
static void send_pieces(struct wg_sender *s, const struct way *w, struct wg_cut *cut)
{
	const uint8_t tos = wg_ecn_of(cut->pkt);
	const size_t most = wg_cut_len(cut);
	size_t len, padded;
	uint64_t bytes = 0;
	uint8_t *at;

	for (unsigned i = 0; i < cut->pieces; i++) {
		/* All but the last have the same length, and so has the place that they need. */
		len = cut->n - cut->at < most ? cut->n - cut->at : most;
		padded = padded_len(s, len, w->carry);
		at = place(s, w->peer, padded + WG_DATA_OVERHEAD, tos, false);
		wg_cut_next(cut, at + WG_DATA_HEADER);
		seal(s, w->session, at, len, padded);
		bytes += padded + WG_DATA_OVERHEAD;
	}
	wg_path_sent(w->peer, true, bytes, s->now_ms);
}

/* ---- packets that are larger than the path carries ---- */

static void send_whole(struct wg_sender *s, const struct way *w, const uint8_t *pkt, size_t n,
		       bool fragment)
{
	size_t padded = padded_len(s, n, w->carry);
	uint8_t *at = place(s, w->peer, padded + WG_DATA_OVERHEAD, wg_ecn_of(pkt), fragment);

	memcpy(at + WG_DATA_HEADER, pkt, n);
	seal(s, w->session, at, n, padded);
	wg_path_sent(w->peer, true, padded + WG_DATA_OVERHEAD, s->now_ms);
}

static void send_fragments(struct wg_sender *s, const struct way *w, struct wg_fragments *f)
{
	uint8_t fragment[WG_SUPER_MAX];
	size_t n;

	while ((n = wg_fragments_len(f)) > 0) {
		wg_fragments_next(f, fragment);
		send_whole(s, w, fragment, n, false);
	}
}

/* Tells the sender, unless many have been told just now. */
static void answer(struct wg_sender *s, const struct way *w, const uint8_t *pkt, size_t n)
{
	uint8_t out[WG_TOOBIG_ROOM];
	struct virtio_net_hdr vh = {.flags = 0};
	struct iovec iov[2] = {{&vh, WG_VNET_LEN}, {out, 0}};

	if (s->now_ms - s->answers_ms >= 1000) {
		s->answers_ms = s->now_ms;
		s->answers_left = ANSWERS;
	}
	if (s->answers_left == 0)
		return;
	iov[1].iov_len = wg_toobig_answer(out, pkt, n, (uint32_t)w->carry);
	if (iov[1].iov_len == 0)
		return;
	s->answers_left--;
	if (writev(s->e->tun, iov, 2) < 0)
		return; /* a device that is down, or full */
}

/* A complete packet. IPv4 that may be fragmented is; IPv6 of up to its least MTU has to arrive, in
 * fragments outside; what looks for the path's width may go beyond what was found; of anything else
 * its sender hears. */
static void send_too_big(struct wg_sender *s, const struct way *w, const uint8_t *pkt, size_t n)
{
	struct wg_fragments f;

	if (n <= w->carry || (w->probed && wg_is_echo(pkt, n)))
		send_whole(s, w, pkt, n, false);
	else if (wg_fragments_begin(&f, pkt, n, (uint32_t)w->carry))
		send_fragments(s, w, &f);
	else if (pkt[0] >> 4 == 6 && n <= WG_PMTU_MIN6)
		send_whole(s, w, pkt, n, true);
	else
		answer(s, w, pkt, n);
}

static void send_narrow(struct wg_sender *s, const struct way *w, struct wg_cut *cut)
{
	const uint8_t *pkt = cut->pkt;
	size_t n = cut->n;

	if (wg_cut_narrow(cut, w->carry)) {
		send_pieces(s, w, cut);
		/* It arrives as it is; but larger segments would make less work. */
		if (s->now_ms - w->peer->told_ms >= TELL_MS) {
			w->peer->told_ms = s->now_ms;
			answer(s, w, pkt, n);
		}
		return;
	}
	while ((n = wg_cut_next(cut, s->whole)) > 0)
		send_too_big(s, w, s->whole, n);
}

/* Cuts, seals and places one packet of the TUN. */
static void transmit(struct wg_sender *s, struct wg_peer *p, struct wg_session *k,
		     const struct virtio_net_hdr *vh, const uint8_t *pkt, size_t n)
{
	const struct way w = way_to(p, k);
	struct wg_cut cut;

	if (wg_cut_begin(&cut, vh, pkt, n) < 0)
		return;
	if (w.carry != 0 && wg_cut_len(&cut) > w.carry)
		send_narrow(s, &w, &cut);
	else
		send_pieces(s, &w, &cut);
}

/* ---- what waits for a session ---- */

static void drop_first(struct stage *q)
{
	struct staged *first = q->head;

	q->head = first->next;
	if (q->head == NULL)
		q->tail = &q->head;
	q->packets--;
	q->bytes -= first->n;
	free(first);
}

static void drop_staged(struct stage *q)
{
	while (q != NULL && q->head != NULL)
		drop_first(q);
}

void wg_sender_forget(struct wg_peer *p)
{
	drop_staged(p->staged);
	free(p->staged);
	p->staged = NULL;
}

/* Keeps it until there is a session; the oldest give way. */
static void stage(struct wg_peer *p, const uint8_t *data, size_t n)
{
	struct stage *q = p->staged;
	struct staged *w = malloc(sizeof(*w) + n);

	if (q == NULL && (q = p->staged = calloc(1, sizeof(*q))) != NULL)
		q->tail = &q->head;
	if (q == NULL || w == NULL) {
		free(w);
		return;
	}
	while (q->packets >= STAGED_PACKETS || (q->head != NULL && q->bytes + n > STAGED_BYTES))
		drop_first(q);
	w->next = NULL;
	w->n = n;
	memcpy(w->data, data, n);
	*q->tail = w;
	q->tail = &w->next;
	q->packets++;
	q->bytes += n;
}

static bool send_staged(struct wg_sender *s, struct wg_peer *p, struct wg_session *k)
{
	struct stage *q = p->staged;
	struct virtio_net_hdr vh;
	bool any = false;

	for (; q != NULL && q->head != NULL; any = true) {
		memcpy(&vh, q->head->data, WG_VNET_LEN);
		transmit(s, p, k, &vh, q->head->data + WG_VNET_LEN, q->head->n - WG_VNET_LEN);
		drop_first(q);
	}
	return any;
}

static void serve_flush(struct wg_sender *s, struct wg_peer *p, unsigned what)
{
	struct wg_session *k;

	if (what & WG_FLUSH_DROP)
		drop_staged(p->staged);
	if ((what & ~(unsigned)WG_FLUSH_DROP) == 0 || (k = wg_path_sender(p, s->now_ms)) == NULL)
		return;
	if (!send_staged(s, p, k) && (what & (WG_FLUSH_CONFIRM | WG_FLUSH_KEEPALIVE)))
		keepalive(s, p, k);
}

/* What the control thread has asked for. */
static void serve_flushes(struct wg_sender *s)
{
	struct wg_engine *e = s->e;
	struct wg_peer *p;
	unsigned what;

	atomic_store(&e->flush_wanted, false);
	for (;;) {
		pthread_mutex_lock(&e->flush_lock);
		p = e->flush;
		if (p != NULL) {
			e->flush = p->flush_next;
			what = p->flush;
			p->flush = 0;
			p->flush_queued = false;
		}
		pthread_mutex_unlock(&e->flush_lock);
		if (p == NULL)
			return;
		serve_flush(s, p, what);
	}
}

/* ---- input ---- */

static struct wg_peer *route(struct wg_sender *s, const struct wg_ip *ip)
{
	struct wg_core *c = s->e->core;
	uint64_t version = atomic_load_explicit(&c->allowed.version, memory_order_acquire);

	if (s->version == version && s->ndst == ip->naddr &&
	    memcmp(s->dst, ip->dst, ip->naddr) == 0)
		return s->peer;
	s->peer = wg_path_route(c, ip->dst, ip->naddr);
	s->version = version;
	s->ndst = ip->naddr;
	memcpy(s->dst, ip->dst, ip->naddr);
	return s->peer;
}

/* vnet header and packet, n bytes. */
static void on_packet(struct wg_sender *s, const uint8_t *data, size_t n)
{
	const uint8_t *pkt = data + WG_VNET_LEN;
	struct virtio_net_hdr vh;
	struct wg_session *k;
	struct wg_peer *p;
	struct wg_ip ip;

	if (n <= WG_VNET_LEN || !wg_ip_parse(&ip, pkt, n - WG_VNET_LEN) ||
	    (p = route(s, &ip)) == NULL)
		return;
	memcpy(&vh, data, WG_VNET_LEN);
	k = wg_path_sender(p, s->now_ms);
	if (k != NULL)
		transmit(s, p, k, &vh, pkt, n - WG_VNET_LEN);
	else
		stage(p, data, n);
}

/* What is there now, until so many bytes wait to be sent. */
static void drain(struct wg_sender *s, size_t enough)
{
	uint8_t *data = s->in + ALIGN_IP;
	ssize_t n;

	s->now_ms = wg_now_ms();
	s->dry = false;
	while (s->used - OUT_LEAD < enough && s->n_runs < RUNS) {
		n = read(s->e->tun, data, WG_VNET_LEN + WG_SUPER_MAX);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			s->dry = true;
			s->gone = errno != EAGAIN;
			return;
		}
		on_packet(s, data, (size_t)n);
	}
}

/* What is there and what was asked for, sent. Under the lock. */
static enum wg_found turn(struct wg_sender *s, size_t enough)
{
	struct wg_engine *e = s->e;
	size_t n;

	urcu_memb_read_lock();
	drain(s, enough);
	if (atomic_load(&e->flush_wanted))
		serve_flushes(s);
	n = s->used - OUT_LEAD;
	flush(s);
	WG_READER_DONE(e);
	urcu_memb_read_unlock();
	if (s->gone)
		return WG_GONE;
	if (n > WG_LITTLE_BYTES || (!s->dry && enough > 1))
		return WG_MUCH;
	return n > 0 ? WG_LITTLE : WG_NOTHING;
}

enum wg_found wg_sender_turn(struct wg_sender *s)
{
	enum wg_found found;

	pthread_mutex_lock(&s->lock);
	found = turn(s, OUT_ENOUGH);
	pthread_mutex_unlock(&s->lock);
	return found;
}

enum wg_found wg_sender_try(struct wg_sender *s, bool lone)
{
	enum wg_found found;

	if (pthread_mutex_trylock(&s->lock))
		return WG_NOTHING;
	found = turn(s, lone ? 1 : OUT_ENOUGH);
	pthread_mutex_unlock(&s->lock);
	return found;
}
