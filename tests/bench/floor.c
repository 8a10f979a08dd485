/* SPDX-License-Identifier: MIT */
/* What tests/bench/wg.py compares the engine with: the floor that this machine sets.
 *
 *     bench-floor wake CPU CPU COUNT IDLE_US
 *         two processes on these processors (-1: any) wake each other by eventfd, COUNT times with
 *         IDLE_US of sleep before each; prints the median round trip, in us
 *     bench-floor relay TUN ADDRESS
 *         packets of this TUN device go to ADDRESS, UDP port 51820, as they are, and come back:
 *         one thread, no cryptography, no buffers, the least that a tunnel in user space does */
#include "libkm/wg/engine/engine.h"
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT 51820

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu < 0)
		return;
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		perror("sched_setaffinity");
}

/* false: the other end has gone. */
static bool wait_for(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t n;

	return poll(&p, 1, 10000) == 1 && read(fd, &n, sizeof(n)) == sizeof(n);
}

static bool ring(int fd)
{
	const uint64_t one = 1;

	return write(fd, &one, sizeof(one)) == sizeof(one);
}

static int compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static int wake(int here, int there, int count, int idle_us)
{
	int to = eventfd(0, EFD_CLOEXEC), from = eventfd(0, EFD_CLOEXEC), n = 0;
	const struct timespec idle = {idle_us / 1000000, idle_us % 1000000 * 1000L};
	double *us = calloc((size_t)count, sizeof(*us)), began;
	pid_t child;

	if (to < 0 || from < 0 || us == NULL || (child = fork()) < 0)
		return 1;
	if (child == 0) {
		pin(there);
		while (wait_for(to) && ring(from))
			;
		_exit(0);
	}
	pin(here);
	for (; n < count; n++) {
		nanosleep(&idle, NULL);
		began = now_us();
		if (!ring(to) || !wait_for(from))
			break;
		us[n] = now_us() - began;
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (n == count) {
		qsort(us, (size_t)count, sizeof(*us), compare);
		printf("%.1f\n", us[count / 2]);
	}
	free(us);
	return n == count ? 0 : 1;
}

static int relay(const char *tun_name, const char *address)
{
	static uint8_t room[10 + 65536];
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	struct pollfd p[2] = {{.events = POLLIN}, {.events = POLLIN}};
	char name[16];
	bool uso;
	ssize_t n;

	snprintf(name, sizeof(name), "%s", tun_name);
	p[1].fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || wg_tun_open(&p[0].fd, name, &uso) ||
	    p[1].fd < 0 || bind(p[1].fd, (struct sockaddr *)&here, sizeof(here))) {
		fprintf(stderr, "relay: no TUN device or no socket\n");
		return 1;
	}
	while (poll(p, 2, -1) > 0) {
		while ((n = read(p[0].fd, room, sizeof(room))) > 0)
			(void)sendto(p[1].fd, room, (size_t)n, 0, (struct sockaddr *)&to,
				     sizeof(to));
		while ((n = recv(p[1].fd, room, sizeof(room), MSG_DONTWAIT)) > 0)
			if (write(p[0].fd, room, (size_t)n) < 0)
				break;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 6 && strcmp(argv[1], "wake") == 0 && atoi(argv[4]) > 0)
		return wake(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	if (argc == 4 && strcmp(argv[1], "relay") == 0)
		return relay(argv[2], argv[3]);
	fprintf(stderr, "usage: bench-floor wake CPU CPU COUNT IDLE_US | relay TUN ADDRESS\n");
	return 2;
}
