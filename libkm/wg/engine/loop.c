/* SPDX-License-Identifier: MIT */
/* Who waits for what. While little moves, the receiving thread waits for the socket and for the TUN
 * and does both sides' work: to hand a packet from thread to thread takes longer than to carry it.
 * The sending thread is parked then. Under load it takes over the TUN; when that has been silent
 * for a while it parks again. */
#include "libkm/wg/engine/engine_priv.h"
#include <poll.h>
#include <urcu/urcu-memb.h>

#define PARK_MS 20
#define PAUSE_US 500
#define BUSY_TURNS 8 /* that moved much, with no pause between: work for two */

/* ---- the sending thread ---- */

/* Until there may be something to do. */
static void sender_wait(struct wg_engine *e)
{
	const bool parked = atomic_load(&e->parked);
	struct pollfd p[2] = {{.fd = e->wake_send, .events = POLLIN},
			      {.fd = e->tun, .events = POLLIN}};
	int n = poll(p, parked ? 1 : 2, parked ? -1 : PARK_MS);

	if (n > 0 && p[0].revents)
		wg_silence(e->wake_send);
	if (n == 0) {
		atomic_store(&e->parked, true);
		wg_ring(e->wake_recv); /* to wait for the TUN */
	}
}

void *wg_sender_run(void *arg)
{
	struct wg_engine *e = arg;
	enum wg_found out = WG_NOTHING;

	urcu_memb_register_thread();
	while (!atomic_load(&e->stop) && out != WG_GONE) {
		out = wg_sender_turn(e->sender);
		if (out == WG_NOTHING || out == WG_LITTLE)
			sender_wait(e);
	}
	urcu_memb_unregister_thread();
	if (out == WG_GONE)
		wg_engine_gone(e);
	return NULL;
}

/* ---- the receiving thread ---- */

enum { UDP_READY = 1, TUN_READY = 2 };
struct watch {
	struct wg_engine *e;
	bool paused; /* before what is ready now */
	unsigned busy;
};

/* What is ready; waits for it. */
static unsigned wait_ready(struct watch *w)
{
	struct wg_engine *e = w->e;
	struct pollfd p[3] = {{.fd = e->udp, .events = POLLIN},
			      {.fd = e->wake_recv, .events = POLLIN},
			      {.fd = e->tun, .events = POLLIN}};
	const int64_t before = wg_now_us();

	if (poll(p, atomic_load(&e->parked) ? 3 : 2, -1) <= 0)
		return 0;
	w->paused = wg_now_us() - before > PAUSE_US;
	if (w->paused)
		w->busy = 0;
	if (p[0].revents & POLLERR)
		wg_receiver_errors(e->receiver);
	if (p[1].revents)
		wg_silence(e->wake_recv);
	return (p[0].revents ? UDP_READY : 0U) | (p[2].revents ? TUN_READY : 0U);
}

static void unpark(struct watch *w, unsigned busy)
{
	w->busy += busy;
	if (w->busy >= BUSY_TURNS && atomic_load(&w->e->parked)) {
		atomic_store(&w->e->parked, false);
		wg_ring(w->e->wake_send);
	}
}

/* Whether the socket takes a turn's packets without waiting for a link that is slower than what
 * comes: it has half of its buffer free. */
static bool writable(const struct wg_engine *e)
{
	struct pollfd p = {.fd = e->udp, .events = POLLOUT};

	return poll(&p, 1, 0) > 0 && (p.revents & POLLOUT);
}

/* A turn of the sending side, but none that would hold up what comes in: waiting is for the other
 * thread. */
static enum wg_found send_too(struct watch *w)
{
	if (w->paused || writable(w->e))
		return wg_sender_try(w->e->sender, w->paused);
	unpark(w, BUSY_TURNS);
	return WG_NOTHING;
}

/* Carries what is ready. false: the device has gone. */
static bool attend(struct watch *w, unsigned ready)
{
	struct wg_engine *e = w->e;
	enum wg_found in = WG_NOTHING, out = WG_NOTHING;

	if (ready & UDP_READY)
		in = wg_receiver_turn(e->receiver);
	/* After a packet for this host its answer stands in the TUN already. */
	if (in == WG_LITTLE || (ready & TUN_READY))
		out = send_too(w);
	if (in == WG_MUCH || out == WG_MUCH)
		unpark(w, 1);
	return out != WG_GONE;
}

void *wg_receiver_run(void *arg)
{
	struct wg_engine *e = arg;
	struct watch w = {.e = e};
	bool here = true;

	urcu_memb_register_thread();
	while (here && !atomic_load(&e->stop))
		here = attend(&w, wait_ready(&w));
	urcu_memb_unregister_thread();
	if (!here)
		wg_engine_gone(e);
	return NULL;
}
