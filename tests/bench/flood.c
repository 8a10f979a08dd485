/* SPDX-License-Identifier: MIT */
/* A flood of forged handshake initiations: mac1 is right, all else random, each from an address of
 * its own out of 198.18.0.0/15. Prints how many were sent in how many seconds. Needs CAP_NET_RAW;
 * for tests, in a network namespace.
 *
 * usage: flood ADDRESS PORT PUBLIC-KEY(hex) PER-SECOND SECONDS */
#include "libkm/base/util.h"
#include "libkm/wg/engine/noise.h"
#include <arpa/inet.h>
#include <err.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define POOL 8192
#define BATCH 64
#define SOURCES 0xc6120000U /* 198.18.0.0/15 */

struct forged {
	struct iphdr ip;
	struct udphdr udp;
	uint8_t msg[WG_INITIATION_LEN];
} __attribute__((packed));

static struct forged pool[POOL];
static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static void forge(struct wg_crypto *c, const struct wg_remote *to, const struct sockaddr_in *at)
{
	struct forged *f;

	for (f = pool; f < pool + POOL; f++) {
		km_random(f->msg, sizeof(f->msg));
		memcpy(f->msg, (uint8_t[]){1, 0, 0, 0}, 4);
		wg_macs(c, to, NULL, f->msg, sizeof(f->msg));
		f->ip = (struct iphdr){.version = 4,
				       .ihl = 5,
				       .ttl = 64,
				       .protocol = IPPROTO_UDP,
				       .tot_len = htons(sizeof(*f)),
				       .saddr = htonl(SOURCES | km_random_below(1 << 17)),
				       .daddr = at->sin_addr.s_addr};
		/* No UDP checksum: IPv4 allows it, and the flood is not the one that is measured.
		 */
		f->udp = (struct udphdr){.source = htons((uint16_t)(1024 + km_random_below(60000))),
					 .dest = at->sin_port,
					 .len = htons(sizeof(*f) - sizeof(f->ip))};
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Gives how many were sent. */
static unsigned long flood(int fd, struct sockaddr_in *to, double per_second, double until)
{
	struct mmsghdr m[BATCH];
	struct iovec iov[BATCH];
	const double begin = now();
	unsigned long sent = 0;
	unsigned at = 0;
	double ahead;
	int n;

	while (!stop && now() < until) {
		for (int i = 0; i < BATCH; i++) {
			iov[i] = (struct iovec){&pool[(at + (unsigned)i) % POOL], sizeof(*pool)};
			m[i] = (struct mmsghdr){.msg_hdr = {.msg_name = to,
							    .msg_namelen = sizeof(*to),
							    .msg_iov = &iov[i],
							    .msg_iovlen = 1}};
		}
		n = sendmmsg(fd, m, BATCH, 0);
		if (n > 0) {
			sent += (unsigned)n;
			at += (unsigned)n;
		}
		ahead = (double)sent / per_second - (now() - begin);
		if (ahead > 0.001)
			nanosleep(&(struct timespec){0, (long)(ahead * 1e9) % 1000000000}, NULL);
	}
	return sent;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	static const uint8_t priv[WG_KEY] = {[31] = 64};
	struct wg_crypto *c = wg_crypto_new();
	struct wg_remote peer;
	struct wg_self self;
	uint8_t pub[WG_KEY];
	double begin, seconds, rate;
	unsigned long sent;
	int fd;

	if (argc != 6 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 ||
	    km_unhex(pub, sizeof(pub), argv[3]) || (rate = atof(argv[4])) <= 0 ||
	    (seconds = atof(argv[5])) <= 0)
		errx(1, "usage: flood ADDRESS PORT PUBLIC-KEY PER-SECOND SECONDS");
	to.sin_port = htons((uint16_t)atoi(argv[2]));
	if (c == NULL)
		errx(1, "no cryptography");
	wg_self_init(c, &self, priv);
	(void)wg_remote_init(c, &peer, &self, pub, NULL);
	forge(c, &peer, &to);
	fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (fd < 0)
		err(1, "raw socket");
	signal(SIGTERM, on_term);
	begin = now();
	sent = flood(fd, &to, rate, begin + seconds);
	printf("%lu %.3f\n", sent, now() - begin);
	wg_crypto_free(c);
	return 0;
}
