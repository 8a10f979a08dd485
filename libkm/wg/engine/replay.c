/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/replay.h"

#define WORDS (WG_REPLAY_BITS / 64)

bool wg_replay_accept(struct wg_replay *r, uint64_t counter)
{
	uint64_t word, top, i, bit;

	if (counter >= WG_REJECT_AFTER_MESSAGES)
		return false;
	counter++; /* so that 0 means: nothing seen yet */
	if (counter + WG_REPLAY_WINDOW < r->greatest)
		return false;
	word = counter / 64;
	if (counter > r->greatest) {
		top = r->greatest / 64;
		/* Words that the window has slid over begin empty. */
		for (i = top + 1; i <= word && i <= top + WORDS; i++)
			r->bits[i % WORDS] = 0;
		r->greatest = counter;
	}
	bit = 1ULL << (counter % 64);
	if (r->bits[word % WORDS] & bit)
		return false;
	r->bits[word % WORDS] |= bit;
	return true;
}
