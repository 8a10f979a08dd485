/* SPDX-License-Identifier: MIT */
/* km-warden --device NAME: one WireGuard device by itself, served over its control socket: a
 * program for WG_QUICK_USERSPACE_IMPLEMENTATION. It returns when the socket is there, and stays
 * behind as a daemon until the device is deleted. With -f it stays in the foreground. */
#include "libkm/base/log.h"
#include "libkm/wg/engine/uapi_serve.h"
#include "warden/warden.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define MTU_LOOK_MS 1000

/* Parent: waits for the word from its child and ends with it. */
static int wait_word(int fd)
{
	char status = 1;

	return read(fd, &status, 1) == 1 ? status : 1;
}

static void give_word(int *fd, char status)
{
	if (*fd < 0)
		return;
	if (write(*fd, &status, 1) != 1)
		km_warn("nobody waits any more", km_ks("why", strerror(errno)));
	close(*fd);
	*fd = -1;
}

static void detach(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (chdir("/"))
		km_warn("chdir", km_ks("why", strerror(errno)));
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
}

static void follow_mtu(struct wg_engine *e, int ctl, const char *name)
{
	struct ifreq ifr = {.ifr_flags = 0};

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (!ioctl(ctl, SIOCGIFMTU, &ifr) && ifr.ifr_mtu > 0)
		wg_engine_set_mtu(e, (unsigned)ifr.ifr_mtu);
}

static void serve(struct wg_engine *e, const char *name, int signal_fd)
{
	int ctl = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct pollfd p[2] = {{.fd = wg_engine_gone_fd(e), .events = POLLIN},
			      {.fd = signal_fd, .events = POLLIN}};

	for (;;) {
		follow_mtu(e, ctl, name);
		if (poll(p, 2, MTU_LOOK_MS) > 0)
			break;
	}
	close(ctl);
}

static int run_device(const char *name, int word, int signal_fd)
{
	char ifname[16];
	struct wg_engine *e = NULL;
	struct wg_uapi *u = NULL;
	int tun = -1, udp = -1, rc;
	bool uso;

	snprintf(ifname, sizeof(ifname), "%s", name);
	rc = wg_udp_open(&udp, 0);
	if (!rc)
		rc = wg_tun_open(&tun, ifname, &uso);
	if (!rc)
		rc = wg_engine_start(&e, tun, uso, udp);
	if (!rc) {
		tun = udp = -1;
		rc = wg_uapi_start(&u, e, ifname);
	}
	if (rc)
		fprintf(stderr, "km-warden: device %s: %s%s%s\n", name, km_strerror(rc),
			rc == KM_EIO || rc == KM_EPERM ? ": " : "",
			rc == KM_EIO || rc == KM_EPERM ? strerror(errno) : "");
	else if (word >= 0)
		detach();
	give_word(&word, rc != 0);
	if (!rc)
		serve(e, ifname, signal_fd);
	wg_uapi_stop(u);
	wg_engine_stop(e);
	if (tun >= 0)
		close(tun);
	if (udp >= 0)
		close(udp);
	return rc ? 1 : 0;
}

int warden_device(const char *name, bool foreground)
{
	int fds[2] = {-1, -1}, signal_fd;
	sigset_t set;
	pid_t pid;

	if (!foreground) {
		if (pipe2(fds, O_CLOEXEC) || (pid = fork()) < 0) {
			perror("km-warden");
			return 1;
		}
		if (pid > 0) {
			close(fds[1]);
			return wait_word(fds[0]);
		}
		close(fds[0]);
	}
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	return run_device(name, fds[1], signal_fd);
}
