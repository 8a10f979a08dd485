/* SPDX-License-Identifier: MIT */
/* What the receiving thread does with a message from the socket: two bytes of segment length and
 * one of flags begin it, then come pieces, each after a byte that says how it is made: raw, sealed
 * under a session (a peer may send whatever it likes), sealed as the last one was, or a handshake
 * message with a right mac1. */
#include "libkm/wg/engine/recv.c"

#include "libkm/base/util.h"
#include "libkm/wg/engine/core_priv.h"
#include "tests/fuzz/told.h"
#include "tests/fuzz/wg_alone.h"
#include <fcntl.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

enum { RAW, SEALED, AGAIN, HANDSHAKE, END, KINDS };
#define INDEX 0x01020304

struct input {
	const uint8_t *p;
	size_t n;
};
static struct wg_engine dev;
static struct wg_receiver *r;
static struct wg_peer *peer;
static const uint8_t key[WG_KEY] = {8, 1, [31] = 64};
static uint64_t counter, owed; /* bytes that may still be counted */

static void begin(void)
{
	static const struct wg_core_io io = {ALONE(alone_send)};
	static const uint8_t v6[16] = {0xfd};
	struct wg_keys k = {.local_index = INDEX, .remote_index = 1};
	uint8_t pub[WG_KEY];

	told_begin();
	if (r == NULL) {
		dev.tun = open("/dev/null", O_WRONLY | O_CLOEXEC);
		dev.wake_control = dev.tun;
		dev.uso = true;
		dev.queue = calloc(WG_QUEUE, sizeof(*dev.queue));
		pthread_mutex_init(&dev.self_lock, NULL);
		r = wg_receiver_new(&dev);
		if (r == NULL || dev.queue == NULL)
			abort();
	}
	dev.core = wg_core_new(&io);
	wg_core_set_key(dev.core, key);
	memcpy(dev.mac1_key, dev.core->self.mac1_key, WG_HASH);
	wg_x25519_public(pub, (const uint8_t[WG_KEY]){9, 2, [31] = 64});
	peer = wg_core_peer_new(dev.core, pub);
	memcpy(k.recv, key, WG_KEY);
	memcpy(k.send, key, WG_KEY);
	if (peer == NULL || wg_peer_allow(peer, (const uint8_t[4]){10}, 4, 8) ||
	    wg_peer_allow(peer, v6, 16, 8) ||
	    wg_session_begin(peer, &k, true, &(struct wg_clock){1000, 1700000000LL * 1000000000}) ==
		NULL)
		abort();
	counter = owed = 0;
	r->now_ms = 1000;
	r->version = UINT64_MAX;
}

static size_t take(struct input *in, uint8_t *out, size_t room)
{
	size_t n = in->n < room ? in->n : room;

	memcpy(out, in->p, n);
	in->p += n;
	in->n -= n;
	return n;
}

static unsigned byte(struct input *in)
{
	uint8_t b = 0;

	(void)take(in, &b, 1);
	return b;
}

/* One piece of at most room bytes; 0: none. */
static size_t piece(struct input *in, uint8_t *out, size_t room)
{
	static uint8_t buf[WG_AEAD_LEAD + MESSAGE_ROOM];
	unsigned kind = byte(in) % KINDS;
	uint8_t *plain = buf + WG_AEAD_LEAD;
	const uint32_t index = INDEX;
	size_t n;

	if (kind == END || in->n == 0)
		return 0;
	if (kind == RAW)
		return take(in, out, room);
	if (kind == HANDSHAKE) {
		n = take(in, out, room < WG_INITIATION_LEN ? room : WG_INITIATION_LEN);
		if (n >= 2 * WG_MAC)
			wg_mac16(r->crypto, out + n - 2 * WG_MAC, dev.mac1_key, WG_HASH, out,
				 n - 2 * WG_MAC);
		return n;
	}
	if (room < WG_DATA_OVERHEAD)
		return 0;
	n = take(in, plain, room - WG_DATA_OVERHEAD);
	if (kind == SEALED || counter == 0) {
		counter++;
		owed += n + WG_DATA_OVERHEAD;
	}
	wg_aead_seal(r->aead, key, counter, plain, n);
	memset(out, 0, WG_DATA_HEADER);
	out[0] = WG_DATA_TYPE;
	memcpy(out + 4, &index, 4);
	memcpy(out + 8, &counter, 8);
	memcpy(out + WG_DATA_HEADER, plain, n + WG_TAG);
	return n + WG_DATA_OVERHEAD;
}

static void control(void)
{
	const struct wg_clock now = {2000, 1700000001LL * 1000000000};
	unsigned head;

	while ((head = atomic_load(&dev.queue_head)) != atomic_load(&dev.queue_tail)) {
		const struct wg_queued *q = &dev.queue[head % WG_QUEUE];

		if (!wg_core_expects(q->msg, q->n))
			abort();
		wg_core_message(dev.core, &q->from, q->msg, q->n, WG_CALM, &now);
		atomic_store(&dev.queue_head, head + 1);
	}
}

static void message(struct input *in)
{
	struct sockaddr_in6 from = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
	uint8_t *room = r->room[0] + WG_AEAD_LEAD;
	int step = (int)(byte(in) << 8 | byte(in)) % 2000;
	unsigned flags = byte(in);
	struct mmsghdr m = {.msg_hdr = {.msg_name = &from, .msg_namelen = sizeof(from)}};
	char control_room[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
	struct cmsghdr *c = (struct cmsghdr *)control_room;
	const uint64_t before = atomic_load(&peer->rx_bytes);
	size_t n, max = step > 0 ? (size_t)step : 1500;

	from.sin6_addr.s6_addr[15] = (uint8_t)flags;
	if (step > 0) {
		*c = (struct cmsghdr){CMSG_LEN(sizeof(int)), IPPROTO_UDP, UDP_GRO};
		memcpy(CMSG_DATA(c), &step, sizeof(step));
		m.msg_hdr.msg_control = control_room;
		m.msg_hdr.msg_controllen = sizeof(control_room);
	}
	do {
		n = piece(in, room + m.msg_len, max);
		m.msg_len += (unsigned)n;
	} while (n == max && m.msg_len + max <= MESSAGE_ROOM && step > 0);
	on_message(r, &m, room);
	if (flags & 1) {
		write_out(r);
		r->used = 0;
	}
	/* What was not sealed, or came again, is not counted. */
	control();
	n = atomic_load(&peer->rx_bytes) - before;
	if (n > owed)
		abort();
	owed -= n;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct input in = {p, n};

	begin();
	while (in.n > 0)
		message(&in);
	write_out(r);
	r->used = 0;
	wg_core_free(dev.core);
	return 0;
}
