/* SPDX-License-Identifier: MIT */
/* The text of the control socket, given to an engine without a network. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/uapi_text.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static struct wg_engine *engine;

static void stop(void)
{
	wg_engine_stop(engine);
}

static void start(void)
{
	static const char empty[] = "set=1\nreplace_peers=true\n\n";
	int fds[2], udp;
	struct km_buf b;

	if (engine == NULL) {
		/* Nothing ever comes out of this pipe. */
		if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) || wg_udp_open(&udp, 0) ||
		    wg_engine_start(&engine, fds[0], false, udp))
			abort();
		atexit(stop);
	}
	km_buf_init(&b, 64);
	if (!wg_uapi_answer(engine, empty, sizeof(empty) - 1, &b))
		abort();
	km_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const char *text = (const char *)p;
	struct km_buf b;
	size_t len;

	start();
	while ((len = wg_uapi_request_len(text, n)) > 0) {
		/* Ports of this host are not to be taken. */
		if (memmem(text, len, "listen_port", 11) == NULL) {
			km_buf_init(&b, (size_t)1 << 20);
			if (wg_uapi_answer(engine, text, len, &b) &&
			    (b.len < 9 || memcmp(km_buf_head(&b) + b.len - 2, "\n\n", 2) != 0))
				abort();
			km_buf_free(&b);
		}
		text += len;
		n -= len;
	}
	return 0;
}
