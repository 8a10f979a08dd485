/* SPDX-License-Identifier: MIT */
/* km-warden --fd N: keeps a private network for the daemon that started it, which sends its
 * settings over the inherited socket N and talks to it there and over RUNTIME/warden.sock. It ends
 * on a stop request, on SIGTERM, when the device is deleted, or some time after its last daemon
 * has gone; it leaves no interface, process or file behind. */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "warden/warden.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* What an epoll event is about, when it is no connection. */
static char on_listen, on_signal, on_device, on_inside, on_paths;

static int watch(int epoll_fd, int fd, void *what)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = what};

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? KM_EIO : 0;
}

static int block_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void set_limits(void)
{
	struct rlimit files, none = {0, 0};

	setrlimit(RLIMIT_CORE, &none); /* memory holds the key for a moment */
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static bool settings_sane(struct km_wire_open *o)
{
	bool level = o->log_level == KM_LOG_ERROR || o->log_level == KM_LOG_WARN ||
		     o->log_level == KM_LOG_INFO || o->log_level == KM_LOG_DEBUG;

	o->runtime_dir[sizeof(o->runtime_dir) - 1] = 0;
	o->state_dir[sizeof(o->state_dir) - 1] = 0;
	return level && o->mode < KM_WG_NONE && o->host_network <= 1 && o->linger_ms > 0 &&
	       o->log_format <= KM_LOG_JSON && o->runtime_dir[0] == '/' && o->state_dir[0] == '/';
}

/* The first message: settings. */
static int read_settings(struct warden *w, int fd, struct km_wire_head *head)
{
	int fds[KM_PRIVNET_SOCKETS_MAX];
	struct km_wire_request r;
	size_t len, n_fds;

	if (km_wire_recv(fd, &r, sizeof(r), &len, fds, &n_fds, 0))
		return KM_EPROTO;
	while (n_fds)
		close(fds[--n_fds]);
	if (len != km_wire_request_len(KM_WIRE_OPEN) || r.head.magic != KM_WIRE_MAGIC ||
	    r.head.version != KM_WIRE_VERSION || r.head.op != KM_WIRE_OPEN ||
	    !settings_sane(&r.u.open))
		return KM_EPROTO;
	w->settings = r.u.open;
	*head = r.head;
	return 0;
}

static int reply_start(struct warden *w, int fd, struct km_wire_head head, int rc,
		       const struct km_errtext *err)
{
	struct km_wire_reply r;

	memset(&r, 0, sizeof(r));
	head.err = rc;
	head.count = 0;
	r.head = head;
	if (rc)
		r.u.error = *err;
	else
		r.u.hello = w->hello;
	return km_wire_send(fd, &r, km_wire_reply_len(KM_WIRE_OPEN, rc), NULL, 0, MSG_DONTWAIT);
}

static int start(struct warden *w, int signal_fd, struct km_errtext *err)
{
	int rc = warden_listen(w, err);

	if (!rc)
		rc = warden_space_open(w, err);
	if (rc)
		return rc;
	if (watch(w->epoll_fd, w->listen_fd, &on_listen) ||
	    watch(w->epoll_fd, signal_fd, &on_signal) ||
	    (w->inside_fd >= 0 && watch(w->epoll_fd, w->inside_fd, &on_inside)) ||
	    (w->dev->paths_fd >= 0 && watch(w->epoll_fd, w->dev->paths_fd, &on_paths)) ||
	    (w->dev->gone_fd >= 0 && watch(w->epoll_fd, w->dev->gone_fd, &on_device)))
		return km_errtext_set(err, KM_EIO, "epoll: %s", strerror(errno));
	w->hello.pid = getpid();
	warden_stamp_open(w);
	return 0;
}

static void follow_paths(struct warden *w)
{
	struct km_errtext err = {""};

	if (warden_paths(w, &err))
		km_warn("routes do not follow the paths", km_ks("why", err.text));
	else
		km_debug("paths changed", km_ki("narrow", w->n_paths));
}

static void handle(struct warden *w, int signal_fd, void *what)
{
	struct signalfd_siginfo si;

	if (what == &on_listen) {
		warden_accept(w);
	} else if (what == &on_signal) {
		if (read(signal_fd, &si, sizeof(si)) == sizeof(si))
			w->stop = true;
	} else if (what == &on_device) {
		km_error("device ended by itself", km_ks("backend", w->dev->ops->name));
		w->stop = true;
	} else if (what == &on_paths) {
		follow_paths(w);
	} else if (what == &on_inside) {
		km_error("process inside the private network ended");
		w->stop = true;
	} else {
		warden_serve(w, what);
	}
}

/* Milliseconds until the warden ends because nobody needs it; -1: somebody does. */
static int lonely_ms(const struct warden *w)
{
	int64_t left;

	if (w->n_conns)
		return -1;
	left = w->alone_since_ms + w->settings.linger_ms - km_now_ms();
	return left <= 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
}

/* Until something is to be done that nobody asks for; -1: nothing is. */
static int wait_ms(const struct warden *w)
{
	int lonely = lonely_ms(w), stamp = warden_stamp_due_ms(w);

	return lonely < 0 || (stamp >= 0 && stamp < lonely) ? stamp : lonely;
}

static void run(struct warden *w, int signal_fd)
{
	struct epoll_event ev; /* one at a time: serving one event may end what another is about */
	int n;

	while (!w->stop) {
		n = epoll_wait(w->epoll_fd, &ev, 1, wait_ms(w));
		if (!n && !warden_stamp_due_ms(w))
			warden_stamp_keep(w, false);
		if (n > 0)
			handle(w, signal_fd, ev.data.ptr);
		else if (n < 0 && errno != EINTR)
			break;
		else if (!n && !lonely_ms(w))
			break;
	}
}

static int inherited_fd(int argc, char **argv)
{
	char *end;
	long fd;

	if (argc != 3 || strcmp(argv[1], "--fd"))
		return -1;
	fd = strtol(argv[2], &end, 10);
	return *end || end == argv[2] || fd < 3 || fd > 1023 ? -1 : (int)fd;
}

/* "[-f] --device NAME", or the bare name as wg-quick gives it; else NULL. */
static const char *device_name(int argc, char **argv)
{
	if (argc == 2 && argv[1][0] != '-')
		return argv[1];
	if (argc >= 3 && argc <= 4 && !strcmp(argv[argc - 2], "--device") &&
	    (argc == 3 || !strcmp(argv[1], "-f")))
		return argv[argc - 1];
	return NULL;
}

int main(int argc, char **argv)
{
	struct warden *w = NULL;
	struct km_wire_head head;
	struct km_errtext err = {""};
	int fd = inherited_fd(argc, argv), signal_fd = -1, rc;

	if (argc == 3 && !strcmp(argv[1], "--show"))
		return warden_show(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "--key"))
		return warden_key(argv[2]);
	if (device_name(argc, argv))
		return warden_device(device_name(argc, argv), argc == 4);
	if (fd < 0) {
		fprintf(stderr, "km-warden is started by gatewayd and agentd, not by hand;\n"
				"by hand only: km-warden [-f] --device NAME\n"
				"              km-warden --show RUNTIME_DIR\n"
				"              km-warden --key STATE_DIR\n");
		return 2;
	}
	w = km_xcalloc(1, sizeof(*w));
	w->listen_fd = w->lock_fd = w->inside_fd = -1;
	w->alone_since_ms = km_now_ms();
	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	signal_fd = block_signals();
	set_limits();
	rc = w->epoll_fd < 0 || signal_fd < 0 ? KM_EIO : read_settings(w, fd, &head);
	if (rc) {
		km_error("no settings over the inherited socket", km_ke(rc));
		goto out;
	}
	km_log_init("km-warden", (enum km_log_level)w->settings.log_level,
		    (enum km_log_format)w->settings.log_format);
	rc = start(w, signal_fd, &err);
	if (rc) {
		/* Before the answer: whoever reads it finds nothing left of us. */
		warden_unlisten(w);
		warden_space_close(w);
		if (reply_start(w, fd, head, rc, &err)) /* else the daemon says it */
			km_error("warden not started", km_ks("why", err.text));
		goto out;
	}
	if (!reply_start(w, fd, head, 0, NULL) && !warden_adopt(w, fd))
		fd = -1; /* it is a connection now */
	km_info("warden started", km_ks("backend", w->hello.backend), km_ks("why", w->hello.why),
		km_ks("device", w->dev->ifname), km_ki("port", w->settings.port));
	run(w, signal_fd);
	warden_stamp_keep(w, true);
	km_info("warden stopped", km_ki("clients", w->n_conns));
out:
	warden_unlisten(w);
	warden_space_close(w);
	warden_serve_close(w); /* last: daemons wait for the end of their connections */
	if (fd >= 0)
		close(fd);
	if (signal_fd >= 0)
		close(signal_fd);
	if (w->epoll_fd >= 0)
		close(w->epoll_fd);
	free(w);
	return rc ? 1 : 0;
}
