/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/access_log.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LOOK_MS 1000 /* between looks whether the file is still there, and tries to open it */
#define JOURNAL_WAIT_MS 1000 /* for a journal that is behind, and then its entries are lost */
#define JOURNAL_BATCH 64
#define WARN_EVERY_MS 60000

struct access_lane {
	struct access_log *log;
	char *fill;
	size_t len, lines;
	uint64_t random;
	struct access_clock clock;
	/* The thread's, from when `handed` is set until it clears it. */
	_Atomic bool handed;
	char *full;
	size_t full_len, full_lines;
};

struct access_log {
	struct access_log_opts o;
	char *path;
	pthread_t thread;
	bool started;
	sem_t work;
	_Atomic bool reopen, ending;
	struct km_metric *m_lines, *m_lost;
	struct km_log_limit warned;
	/* of the thread */
	int fd; /* -1: none */
	dev_t dev;
	ino_t ino;
	bool torn; /* the last line that went there has no end */
	int64_t looked_ms;
	int open_error; /* the errno of the last try to open it */
	struct access_lane lanes[];
};

static void lost(struct access_log *log, size_t lines, const char *why)
{
	uint32_t held;
	km_metric_add(log->m_lost, (int64_t)lines);
	if (km_log_allow(&log->warned, km_now_ms(), 1, WARN_EVERY_MS, &held))
		km_warn("access log lines lost", km_ks("to", log->path), km_ks("why", why),
			km_ki("lines", lines), km_ki("held", held));
}

static void closed(struct access_log *log)
{
	if (log->fd >= 0)
		close(log->fd);
	log->fd = -1;
	log->torn = false;
}

/* ---- the file ---- */

static bool file_open(struct access_log *log)
{
	struct stat st;
	/* Non-blocking for what is no file: a FIFO without a reader. */
	log->fd = open(log->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
		       0640);
	if (log->fd < 0 || fstat(log->fd, &st))
		return false;
	log->dev = st.st_dev;
	log->ino = st.st_ino;
	return true;
}

/* Whether the path leads to what is open. */
static bool file_there(const struct access_log *log)
{
	struct stat st;
	return !stat(log->path, &st) && st.st_dev == log->dev && st.st_ino == log->ino;
}

static bool file_ready(struct access_log *log, int64_t now)
{
	bool anew = atomic_exchange(&log->reopen, false);
	bool look = anew || !log->looked_ms || now - log->looked_ms >= LOOK_MS;
	if (look)
		log->looked_ms = now;
	if (log->fd >= 0 && (anew || (look && !file_there(log))))
		closed(log);
	if (log->fd >= 0)
		return true;
	if (look && file_open(log))
		return true;
	if (look)
		log->open_error = errno;
	errno = log->open_error;
	return false;
}

static size_t count_lines(const char *p, size_t n)
{
	size_t lines = 0;
	for (const char *end = p + n; (p = memchr(p, '\n', (size_t)(end - p))); p++)
		lines++;
	return lines;
}

/* Takes half a line back, or else has the next one begin on a line of its own. */
static void file_mend(struct access_log *log, size_t half)
{
	struct stat st;
	if (half && (fstat(log->fd, &st) || !S_ISREG(st.st_mode) || st.st_size < (off_t)half ||
		     ftruncate(log->fd, st.st_size - (off_t)half)))
		log->torn = true;
}

static void file_write(struct access_log *log, const char *p, size_t n, size_t lines)
{
	size_t done = 0;
	if (!file_ready(log, km_now_ms())) {
		lost(log, lines, strerror(errno));
		return;
	}
	if (log->torn && write(log->fd, "\n", 1) == 1)
		log->torn = false;
	while (done < n) {
		ssize_t got = write(log->fd, p + done, n - done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	size_t whole = lines;
	if (done < n) {
		const char *why = strerror(errno), *end = done ? memrchr(p, '\n', done) : NULL;
		whole = count_lines(p, done);
		lost(log, lines - whole, why);
		file_mend(log, end ? (size_t)(p + done - end - 1) : done);
	}
	km_metric_add(log->m_lines, (int64_t)whole);
}

/* ---- the journal ---- */

static bool journal_ready(struct access_log *log)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	if (atomic_exchange(&log->reopen, false))
		closed(log);
	if (log->fd >= 0)
		return true;
	if (strlen(log->path) >= sizeof(to.sun_path)) {
		errno = ENAMETOOLONG;
		return false;
	}
	memcpy(to.sun_path, log->path, strlen(log->path));
	log->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (log->fd < 0)
		return false;
	if (!connect(log->fd, (struct sockaddr *)&to, sizeof(to)))
		return true;
	int error = errno;
	closed(log);
	errno = error;
	return false;
}

/* Parts up to JOURNAL_BATCH entries, each ended by an empty line; *p and *n go on behind them. */
static unsigned journal_batch(struct mmsghdr *m, struct iovec *iov, char **p, size_t *n)
{
	unsigned count = 0;
	for (char *end; count < JOURNAL_BATCH && *n && (end = memmem(*p, *n, "\n\n", 2)); count++) {
		size_t len = (size_t)(end + 2 - *p);
		iov[count] = (struct iovec){*p, len - 1};
		m[count] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[count], .msg_iovlen = 1}};
		*p += len;
		*n -= len;
	}
	return count;
}

/* Sends as many as the journal takes; how many. It may have been restarted since the last time. */
static unsigned journal_send(struct access_log *log, struct mmsghdr *m, unsigned count,
			     int64_t until)
{
	unsigned sent = 0;
	bool again = true;
	while (sent < count) {
		int got = journal_ready(log)
			      ? sendmmsg(log->fd, m + sent, count - sent, MSG_NOSIGNAL)
			      : -1;
		int64_t left = until - km_now_ms();
		if (got > 0) {
			sent += (unsigned)got;
		} else if (log->fd >= 0 && (errno == EAGAIN || errno == ENOBUFS) && left > 0 &&
			   !atomic_load(&log->ending)) {
			struct pollfd fd = {.fd = log->fd, .events = POLLOUT};
			(void)poll(&fd, 1, (int)left);
		} else if (log->fd >= 0 && errno != EAGAIN && errno != EMSGSIZE && again) {
			again = false;
			closed(log);
		} else {
			break;
		}
	}
	return sent;
}

static void journal_write(struct access_log *log, char *p, size_t n, size_t lines)
{
	struct mmsghdr m[JOURNAL_BATCH];
	struct iovec iov[JOURNAL_BATCH];
	int64_t until = km_now_ms() + JOURNAL_WAIT_MS;
	size_t sent = 0;
	for (unsigned count; (count = journal_batch(m, iov, &p, &n));) {
		unsigned now = journal_send(log, m, count, until);
		sent += now;
		if (now < count)
			break;
	}
	km_metric_add(log->m_lines, (int64_t)sent);
	if (sent < lines)
		lost(log, lines - sent, strerror(errno));
}

/* ---- the thread ---- */

static void lane_write(struct access_log *log, struct access_lane *l)
{
	if (!atomic_load_explicit(&l->handed, memory_order_acquire))
		return;
	if (log->o.format == ACCESS_JOURNAL)
		journal_write(log, l->full, l->full_len, l->full_lines);
	else
		file_write(log, l->full, l->full_len, l->full_lines);
	atomic_store_explicit(&l->handed, false, memory_order_release);
}

static void *run(void *arg)
{
	struct access_log *log = arg;
	bool ending;
	do {
		while (sem_wait(&log->work) && errno == EINTR)
			;
		ending = atomic_load(
		    &log->ending); /* before the lanes: what was handed over is written */
		for (size_t i = 0; i < log->o.lanes; i++)
			lane_write(log, &log->lanes[i]);
	} while (!ending);
	return NULL;
}

/* ---- the workers ---- */

struct access_lane *access_log_lane(struct access_log *log, size_t i)
{
	return &log->lanes[i];
}

void access_flush(struct access_lane *l)
{
	if (!l || !l->len || atomic_load_explicit(&l->handed, memory_order_acquire))
		return;
	char *empty = l->full;
	l->full = l->fill;
	l->full_len = l->len;
	l->full_lines = l->lines;
	l->fill = empty;
	l->len = l->lines = 0;
	atomic_store_explicit(&l->handed, true, memory_order_release);
	sem_post(&l->log->work);
}

/* xorshift64*: chance, not secrecy. */
static uint32_t random32(struct access_lane *l)
{
	l->random ^= l->random >> 12;
	l->random ^= l->random << 25;
	l->random ^= l->random >> 27;
	return (uint32_t)((l->random * 0x2545f4914f6cdd1dULL) >> 32);
}

static void query_cut(struct http_str *s)
{
	const char *query = s->n ? memchr(s->p, '?', s->n) : NULL;
	if (query)
		s->n = (size_t)(query - s->p);
}

void access_put(struct access_lane *l, struct access_entry *e)
{
	struct access_log *log = l->log;
	if (e->status < 500 && random32(l) >= log->o.of_2_32)
		return;
	if (!log->o.query) {
		query_cut(&e->path);
		query_cut(&e->referer);
	}
	if (ACCESS_LANE_MAX - l->len < ACCESS_LINE_MAX) {
		access_flush(l);
		if (l->len) {
			lost(log, 1, "they cannot be written as fast as they come");
			return;
		}
	}
	l->len += access_format(l->fill + l->len, log->o.format, e, &l->clock);
	l->lines++;
	if (l->len >= ACCESS_LANE_LARGE)
		access_flush(l);
}

/* ---- life ---- */

void access_log_reopen(struct access_log *log)
{
	if (log)
		atomic_store(&log->reopen, true);
}

static bool lanes_make(struct access_log *log)
{
	for (size_t i = 0; i < log->o.lanes; i++) {
		struct access_lane *l = &log->lanes[i];
		l->log = log;
		l->fill = malloc(ACCESS_LANE_MAX);
		l->full = malloc(ACCESS_LANE_MAX);
		if (!l->fill || !l->full)
			return false;
		while (!l->random)
			km_random(&l->random, sizeof(l->random));
	}
	return true;
}

int access_log_start(struct access_log **out, const struct access_log_opts *o)
{
	struct access_log *log = calloc(1, sizeof(*log) + o->lanes * sizeof(log->lanes[0]));
	if (!log)
		return KM_ENOMEM;
	log->o = *o;
	log->fd = -1;
	log->path = strdup(o->path);
	log->m_lines = km_metric(KM_METRIC_COUNTER, "kakuremichi_access_log_lines_total", "",
				 "Lines of the access log written.");
	log->m_lost = km_metric(KM_METRIC_COUNTER, "kakuremichi_access_log_lost_total", "",
				"Lines of the access log that could not be written.");
	if (sem_init(&log->work, 0, 0)) {
		free(log->path);
		free(log);
		return KM_ENOMEM;
	}
	if (!log->path || !lanes_make(log))
		goto fail;
	if (!(o->format == ACCESS_JOURNAL ? journal_ready(log) : file_ready(log, km_now_ms())))
		km_warn("access log cannot be opened yet", km_ks("to", log->path),
			km_ks("why", strerror(errno)));
	if (pthread_create(&log->thread, NULL, run, log))
		goto fail;
	log->started = true;
	*out = log;
	return 0;
fail:
	access_log_free(log);
	return KM_ENOMEM;
}

void access_log_free(struct access_log *log)
{
	if (!log)
		return;
	if (log->started) {
		atomic_store(&log->ending, true);
		sem_post(&log->work);
		pthread_join(log->thread, NULL);
		for (size_t i = 0; i < log->o.lanes; i++) {
			access_flush(&log->lanes[i]);
			lane_write(log, &log->lanes[i]);
		}
	}
	closed(log);
	for (size_t i = 0; i < log->o.lanes; i++) {
		free(log->lanes[i].fill);
		free(log->lanes[i].full);
	}
	sem_destroy(&log->work);
	free(log->path);
	free(log);
}
