/* SPDX-License-Identifier: MIT */
/* Lines of the access log, and where they go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/access_log.h"
#include "libkm/base/err.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define S(s) ((struct http_str){(s), sizeof(s) - 1})
#define WALL 1795244533123 /* 2026-11-21T07:02:13.123Z */

static const uint8_t tunnel[16] = {0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0,
				   1,    2,    3,    4,    5,    6,    7,    0xff};

static struct access_entry whole(void)
{
	return (struct access_entry){.wall_ms = WALL,
				     .client = {AF_INET, {203, 0, 113, 9}},
				     .major = 1,
				     .minor = 1,
				     .method = S("GET"),
				     .host = S("hello.example.org"),
				     .path = S("/a/b?c=d"),
				     .agent = S("curl/8"),
				     .referer = S("https://x.example/?q=1"),
				     .status = 200,
				     .bytes_in = 7,
				     .bytes_out = 1024,
				     .duration_ms = 12,
				     .first_byte_ms = 3,
				     .tunnel = tunnel,
				     .upstream = ACCESS_UP_REUSED,
				     .tls = "TLSv1.3"};
}

/* What could not even be read. */
static struct access_entry bare(void)
{
	return (struct access_entry){.wall_ms = WALL,
				     .client = {AF_INET6, {0x20, 1, 0xd, 0xb8, [15] = 1}},
				     .status = 400,
				     .first_byte_ms = -1,
				     .error = "malformed"};
}

/* A connection that was passed through. */
static struct access_entry passed(void)
{
	return (struct access_entry){.wall_ms = WALL,
				     .client = {AF_INET, {203, 0, 113, 9}},
				     .host = S("own.example.org"),
				     .status = 200,
				     .bytes_in = 517,
				     .bytes_out = 90000,
				     .duration_ms = 4000,
				     .first_byte_ms = 3,
				     .tunnel = tunnel,
				     .upstream = ACCESS_UP_NEW,
				     .tls = "passthrough",
				     .error = "client reset"};
}

/* Into memory of exactly the promised size, so that the sanitizers see what goes beyond it. */
static char *format(enum access_format how, const struct access_entry *e)
{
	struct access_clock clock = {0};
	char *out = malloc(ACCESS_LINE_MAX), *s;
	assert_non_null(out);
	size_t n = access_format(out, how, e, &clock);
	assert_true(n && n < ACCESS_LINE_MAX && out[n - 1] == '\n');
	s = strndup(out, n);
	assert_int_equal(strlen(s), n);
	free(out);
	return s;
}

static void expect(enum access_format how, struct access_entry e, const char *line)
{
	char *s = format(how, &e);
	assert_string_equal(s, line);
	free(s);
}

static void test_text(void **state)
{
	(void)state;
	expect(ACCESS_TEXT, whole(),
	       "203.0.113.9 - - [21/Nov/2026:07:02:13 +0000] \"GET /a/b?c=d HTTP/1.1\" 200 1024 "
	       "\"https://x.example/?q=1\" \"curl/8\" time=2026-11-21T07:02:13.123Z "
	       "host=\"hello.example.org\" in=7 "
	       "ms=12 first_ms=3 tunnel=12345678-9abc-def0-0102-0304050607ff upstream=reused "
	       "tls=TLSv1.3 error=-\n");
	expect(
	    ACCESS_TEXT, bare(),
	    "2001:db8::1 - - [21/Nov/2026:07:02:13 +0000] \"-\" 400 0 \"-\" \"-\" "
	    "time=2026-11-21T07:02:13.123Z host=- in=0 ms=0 first_ms=- tunnel=- upstream=- tls=- "
	    "error=\"malformed\"\n");
	expect(ACCESS_TEXT, passed(),
	       "203.0.113.9 - - [21/Nov/2026:07:02:13 +0000] \"-\" 200 90000 \"-\" \"-\" "
	       "time=2026-11-21T07:02:13.123Z host=\"own.example.org\" in=517 ms=4000 first_ms=3 "
	       "tunnel=12345678-9abc-def0-0102-0304050607ff upstream=new tls=passthrough "
	       "error=\"client reset\"\n");
}

static void test_json(void **state)
{
	(void)state;
	expect(ACCESS_JSON, whole(),
	       "{\"time\":\"2026-11-21T07:02:13.123Z\",\"client\":\"203.0.113.9\",\"version\":"
	       "\"HTTP/1.1\","
	       "\"method\":\"GET\",\"host\":\"hello.example.org\",\"path\":\"/a/"
	       "b?c=d\",\"status\":200,\"bytes_in\":7,"
	       "\"bytes_out\":1024,\"duration_ms\":12,\"first_byte_ms\":3,"
	       "\"tunnel\":\"12345678-9abc-def0-0102-0304050607ff\",\"upstream\":\"reused\",\"user_"
	       "agent\":\"curl/8\","
	       "\"referer\":\"https://x.example/?q=1\",\"tls\":\"TLSv1.3\"}\n");
	expect(ACCESS_JSON, bare(),
	       "{\"time\":\"2026-11-21T07:02:13.123Z\",\"client\":\"2001:db8::1\",\"status\":400,"
	       "\"bytes_in\":0,"
	       "\"bytes_out\":0,\"duration_ms\":0,\"error\":\"malformed\"}\n");
	expect(ACCESS_JSON, passed(),
	       "{\"time\":\"2026-11-21T07:02:13.123Z\",\"client\":\"203.0.113.9\",\"host\":"
	       "\"own.example.org\",\"status\":200,\"bytes_in\":517,\"bytes_out\":90000,"
	       "\"duration_ms\":4000,\"first_byte_ms\":3,"
	       "\"tunnel\":\"12345678-9abc-def0-0102-0304050607ff\",\"upstream\":\"new\","
	       "\"tls\":\"passthrough\",\"error\":\"client reset\"}\n");
}

static void test_journal(void **state)
{
	(void)state;
	struct access_entry e = whole();
	e.major = 2;
	e.minor = 0;
	e.upstream = ACCESS_UP_NEW;
	expect(ACCESS_JOURNAL, e,
	       "PRIORITY=6\nSYSLOG_IDENTIFIER=gatewayd-access\nMESSAGE=203.0.113.9 GET /a/b?c=d "
	       "HTTP/2 200\n"
	       "KM_TIME=2026-11-21T07:02:13.123Z\nKM_CLIENT=203.0.113.9\nKM_VERSION=HTTP/"
	       "2\nKM_METHOD=GET\n"
	       "KM_HOST=hello.example.org\nKM_PATH=/a/"
	       "b?c=d\nKM_STATUS=200\nKM_BYTES_IN=7\nKM_BYTES_OUT=1024\n"
	       "KM_DURATION_MS=12\nKM_FIRST_BYTE_MS=3\nKM_TUNNEL=12345678-9abc-def0-0102-"
	       "0304050607ff\n"
	       "KM_UPSTREAM=new\nKM_USER_AGENT=curl/8\nKM_REFERER=https://x.example/"
	       "?q=1\nKM_TLS=TLSv1.3\n\n");
	expect(ACCESS_JOURNAL, passed(),
	       "PRIORITY=6\nSYSLOG_IDENTIFIER=gatewayd-access\nMESSAGE=203.0.113.9 passthrough "
	       "own.example.org 200\n"
	       "KM_TIME=2026-11-21T07:02:13.123Z\nKM_CLIENT=203.0.113.9\nKM_HOST=own.example.org\n"
	       "KM_STATUS=200\nKM_BYTES_IN=517\nKM_BYTES_OUT=90000\nKM_DURATION_MS=4000\n"
	       "KM_FIRST_BYTE_MS=3\nKM_TUNNEL=12345678-9abc-def0-0102-0304050607ff\n"
	       "KM_UPSTREAM=new\nKM_TLS=passthrough\nKM_ERROR=client reset\n\n");
}

/* ---- any bytes ---- */

static void each_foreign(struct access_entry *e, struct http_str s)
{
	e->method = e->host = e->path = e->agent = e->referer = s;
	static char error[256];
	snprintf(error, sizeof(error), "%.*s", s.n < 255 ? (int)s.n : 255, s.p);
	e->error = error;
}

static size_t newlines(const char *s)
{
	size_t n = 0;
	for (; (s = strchr(s, '\n')); s++)
		n++;
	return n;
}

static void clean(const char *s, bool ascii)
{
	for (; *s; s++)
		assert_true(((unsigned char)*s >= 0x20 && *s != 0x7f && (!ascii || !(*s & 0x80))) ||
			    *s == '\n');
}

static void check_bytes(struct http_str bytes)
{
	struct access_entry e = whole();
	each_foreign(&e, bytes);
	char *t = format(ACCESS_TEXT, &e), *j = format(ACCESS_JSON, &e),
	     *q = format(ACCESS_JOURNAL, &e);
	json_error_t err;
	json_t *doc = json_loads(j, 0, &err);
	if (!doc)
		fail_msg("%s in %s", err.text, j);
	assert_int_equal(newlines(t), 1);
	assert_int_equal(newlines(j), 1);
	assert_int_equal(newlines(q), 20 + (*e.error != 0));
	assert_ptr_equal(strstr(q, "\n\n") + 2, q + strlen(q)); /* one entry */
	clean(t, true);
	clean(j, false);
	clean(q, true);
	json_decref(doc);
	free(t);
	free(j);
	free(q);
}

static void test_any_bytes(void **state)
{
	(void)state;
	char all[256], one[3];
	for (int i = 0; i < 256; i++)
		all[i] = (char)i;
	check_bytes((struct http_str){all, sizeof(all)});
	for (int a = 0; a < 256; a++) {
		for (int b = 0; b < 256; b += a < 0x80 ? 37 : 1) {
			memcpy(one, (char[]){(char)a, (char)b, '"'}, 3);
			check_bytes((struct http_str){one, 3});
		}
	}
}

/* Multi-byte characters end where the bytes end, not behind them. */
static void test_cut_characters(void **state)
{
	(void)state;
	static const char text[] = "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
	for (size_t n = 1; n < sizeof(text); n++) {
		char *bytes = malloc(n);
		assert_non_null(bytes);
		memcpy(bytes, text, n);
		check_bytes((struct http_str){bytes, n});
		free(bytes);
	}
	struct access_entry e = bare();
	e.path = S("/\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xff\xc2\x9b\x1b\"\\");
	char *j = format(ACCESS_JSON, &e);
	assert_non_null(strstr(
	    j, "\"path\":\"/\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\\ufffd\\u009b\\u001b\\\"\\\\\""));
	free(j);
}

static void test_bounds(void **state)
{
	(void)state;
	static char big[100000];
	static const char worst[] = {0, 1, (char)0xff, (char)0x80, '"'};
	for (size_t i = 0; i < sizeof(worst); i++) {
		memset(big, worst[i], sizeof(big));
		check_bytes((struct http_str){big, sizeof(big)});
	}
	memset(big, 'x', sizeof(big));
	struct access_entry e = whole();
	each_foreign(&e, (struct http_str){big, sizeof(big)});
	e.wall_ms = INT64_MAX;
	e.bytes_in = e.bytes_out = INT64_MAX;
	e.duration_ms = e.first_byte_ms = INT64_MAX;
	char *s = format(ACCESS_JSON, &e);
	json_t *doc = json_loads(s, 0, NULL);
	assert_non_null(doc);
	const char *path = json_string_value(json_object_get(doc, "path"));
	assert_int_equal(strlen(path), ACCESS_PATH_MAX + 3);
	assert_string_equal(path + ACCESS_PATH_MAX, "...");
	json_decref(doc);
	free(s);
	e.path.n = ACCESS_PATH_MAX;
	s = format(ACCESS_TEXT, &e);
	assert_null(strstr(s, "x... HTTP"));
	free(s);
	e.wall_ms = -1;
	free(format(ACCESS_TEXT, &e));
}

static void test_clock(void **state)
{
	(void)state;
	static const struct {
		int64_t wall_ms;
		const char *clf, *iso;
	} cases[] = {
	    {0, "[01/Jan/1970:00:00:00 +0000]", "time=1970-01-01T00:00:00.000Z"},
	    {999, "[01/Jan/1970:00:00:00 +0000]", "time=1970-01-01T00:00:00.999Z"},
	    {1000, "[01/Jan/1970:00:00:01 +0000]", "time=1970-01-01T00:00:01.000Z"},
	    {951868799050, "[29/Feb/2000:23:59:59 +0000]", "time=2000-02-29T23:59:59.050Z"},
	    {WALL, "[21/Nov/2026:07:02:13 +0000]", "time=2026-11-21T07:02:13.123Z"},
	    {0, "[01/Jan/1970:00:00:00 +0000]", "time=1970-01-01T00:00:00.000Z"}};
	struct access_clock clock = {0};
	static char line[ACCESS_LINE_MAX];
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct access_entry e = bare();
		e.wall_ms = cases[i].wall_ms;
		line[access_format(line, ACCESS_TEXT, &e, &clock)] = 0;
		assert_non_null(strstr(line, cases[i].clf));
		assert_non_null(strstr(line, cases[i].iso));
	}
}

static void test_sample(void **state)
{
	(void)state;
	static const struct {
		const char *s;
		uint64_t of;
	} good[] = {{"1/1", 1ULL << 32}, {"1/2", 1ULL << 31}, {"100%", 1ULL << 32},
		    {"50%", 1ULL << 31}, {"0.5%", 21474836},  {"1/1000000000", 4},
		    {"0.0000000001%", 1}};
	static const char *const bad[] = {"",     "1",   "1/0",  "1/",           "1/-1", "1/x",
					  "2/3",  "0%",  "101%", "-1%",          "%",    "nan%",
					  "1/2x", "5%%", " 5%",  "1/99999999999"};
	uint64_t of;
	for (size_t i = 0; i < KM_ARRAY_LEN(good); i++) {
		assert_int_equal(access_sample_parse(&of, good[i].s), 0);
		assert_int_equal(of, good[i].of);
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++)
		assert_int_equal(access_sample_parse(&of, bad[i]), KM_EINVAL);
}

/* ---- where they go ---- */

struct place {
	char dir[32], path[64], moved[64];
	struct access_log_opts o;
	struct access_log *log;
	struct access_lane *lane;
};

static int64_t metric(const char *name)
{
	return atomic_load(&km_metric(KM_METRIC_COUNTER, name, "", "")->value);
}
#define WRITTEN metric("kakuremichi_access_log_lines_total")
#define LOST metric("kakuremichi_access_log_lost_total")

static void place_make(struct place *p)
{
	*p = (struct place){.dir = "/tmp/kmaccessXXXXXX"};
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/log", p->dir);
	snprintf(p->moved, sizeof(p->moved), "%s/log.1", p->dir);
	p->o = (struct access_log_opts){.format = ACCESS_JSON,
					.path = p->path,
					.of_2_32 = 1ULL << 32,
					.query = true,
					.lanes = 2};
}

static void place_open(struct place *p)
{
	assert_int_equal(access_log_start(&p->log, &p->o), 0);
	p->lane = access_log_lane(p->log, 1);
}

static void place_close(struct place *p)
{
	access_log_free(p->log);
	unlink(p->path);
	unlink(p->moved);
	assert_int_equal(rmdir(p->dir), 0);
}

static void put(struct place *p, int status)
{
	struct access_entry e = whole();
	e.status = status;
	access_put(p->lane, &e);
}

/* Waits until as many lines as were put, since the counters stood so, are written or lost. */
static void settle(struct place *p, int64_t were, int64_t lines)
{
	int64_t until = km_now_ms() + 20000;
	while (WRITTEN + LOST - were < lines && km_now_ms() < until) {
		access_flush(p->lane);
		usleep(1000);
	}
	assert_int_equal(WRITTEN + LOST - were, lines);
}

static char *slurp(const char *path)
{
	char *s;
	size_t n;
	return km_file_read(path, 64 << 20, &s, &n) ? NULL : s;
}

static size_t lines_of(const char *path)
{
	char *s = slurp(path);
	size_t n = s ? newlines(s) : 0;
	assert_true(!s || !*s || s[strlen(s) - 1] == '\n');
	free(s);
	return n;
}

static void test_file(void **state)
{
	(void)state;
	struct place p;
	place_make(&p);
	place_open(&p);
	int64_t were = WRITTEN + LOST;
	for (int i = 0; i < 3000; i++) /* some 900 KiB: more than both buffers hold */
		put(&p, 200);
	settle(&p, were, 3000);
	put(&p, 200); /* what is left is written at the end */
	access_log_free(p.log);
	p.log = NULL;
	assert_true(lines_of(p.path) >= 2);
	assert_int_equal((int64_t)lines_of(p.path) + LOST, WRITTEN + LOST);
	struct stat st;
	assert_int_equal(stat(p.path, &st), 0);
	assert_int_equal(st.st_mode & 07137, 0);
	place_close(&p);
}

static void test_moved_away(void **state)
{
	(void)state;
	struct place p;
	struct stat st;
	place_make(&p);
	place_open(&p);
	int64_t were = WRITTEN + LOST;
	put(&p, 200);
	settle(&p, were, 1);
	/* told of it */
	assert_int_equal(rename(p.path, p.moved), 0);
	access_log_reopen(p.log);
	put(&p, 200);
	settle(&p, were, 2);
	assert_int_equal(lines_of(p.moved), 1);
	assert_int_equal(lines_of(p.path), 1);
	/* and not told */
	assert_int_equal(rename(p.path, p.moved), 0);
	int64_t until = km_now_ms() + 20000, lines = 2;
	while (stat(p.path, &st) && km_now_ms() < until) {
		put(&p, 200);
		settle(&p, were, ++lines);
	}
	assert_int_equal(lines_of(p.path), 1);
	assert_int_equal((int64_t)lines_of(p.moved), lines - 2);
	place_close(&p);
}

static void test_no_folder(void **state)
{
	(void)state;
	struct place p;
	place_make(&p);
	snprintf(p.path, sizeof(p.path), "%s/none/log", p.dir);
	place_open(&p);
	int64_t were = WRITTEN + LOST, lost = LOST, lines = 0;
	put(&p, 200);
	settle(&p, were, ++lines);
	assert_int_equal(LOST - lost, 1);
	/* It goes on once it can be opened. */
	*strrchr(p.path, '/') = 0;
	assert_int_equal(mkdir(p.path, 0755), 0);
	int64_t written = WRITTEN, until = km_now_ms() + 20000;
	while (WRITTEN == written && km_now_ms() < until) {
		put(&p, 200);
		settle(&p, were, ++lines);
	}
	assert_int_equal(WRITTEN - written, 1);
	char *folder = strdup(p.path);
	snprintf(p.path, sizeof(p.path), "%s/log", folder);
	assert_int_equal(lines_of(p.path), 1);
	access_log_free(p.log);
	p.log = NULL;
	unlink(p.path);
	assert_int_equal(rmdir(folder), 0);
	free(folder);
	place_close(&p);
}

/* A disk that is full in the middle of a line keeps whole lines only. */
static void test_full(void **state)
{
	(void)state;
	struct place p;
	struct rlimit was, small;
	place_make(&p);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	small = was;
	small.rlim_cur = 10000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	place_open(&p);
	int64_t were = WRITTEN + LOST, lost = LOST, written = WRITTEN;
	for (int i = 0; i < 100; i++)
		put(&p, 200);
	settle(&p, were, 100);
	assert_true(LOST > lost && WRITTEN > written);
	put(&p, 200);
	settle(&p, were, 101);
	assert_int_equal((int64_t)lines_of(p.path), WRITTEN - written);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	put(&p, 200);
	settle(&p, were, 102);
	assert_int_equal((int64_t)lines_of(p.path), WRITTEN - written);
	place_close(&p);
	place_make(&p);
	p.o.path = "/dev/full";
	place_open(&p);
	were = WRITTEN + LOST;
	written = WRITTEN;
	put(&p, 200);
	settle(&p, were, 1);
	assert_int_equal(WRITTEN, written);
	place_close(&p);
}

/* Nobody reads: what does not fit is lost, and access_put returns. */
static void test_stuck(void **state)
{
	(void)state;
	struct place p;
	place_make(&p);
	assert_int_equal(mkfifo(p.path, 0600), 0);
	int fd = open(p.path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	place_open(&p);
	int64_t were = WRITTEN + LOST, lost = LOST;
	for (int i = 0; i < 5000; i++)
		put(&p, 200);
	settle(&p, were, 5000);
	assert_true(LOST - lost > 3000);
	close(fd);
	place_close(&p);
}

static void test_sampled(void **state)
{
	(void)state;
	struct place p;
	place_make(&p);
	p.o.of_2_32 = 1;
	p.o.query = false;
	place_open(&p);
	int64_t were = WRITTEN + LOST;
	for (int i = 0; i < 100; i++)
		put(&p, 200);
	put(&p, 502);
	settle(&p, were, 1);
	char *s = slurp(p.path);
	assert_non_null(strstr(s, "\"status\":502"));
	assert_non_null(strstr(s, "\"path\":\"/a/b\""));
	assert_non_null(strstr(s, "\"referer\":\"https://x.example/\""));
	free(s);
	place_close(&p);
	place_make(&p);
	p.o.of_2_32 = 1ULL << 31;
	place_open(&p);
	were = WRITTEN;
	for (int i = 0; i < 2000; i++)
		put(&p, 200);
	access_log_free(p.log);
	p.log = NULL;
	assert_in_range(WRITTEN - were, 800, 1200); /* 9 deviations */
	place_close(&p);
}

/* ---- journald ---- */

static int journal_bind(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void test_to_journal(void **state)
{
	(void)state;
	struct place p;
	char got[4096];
	place_make(&p);
	p.o.format = ACCESS_JOURNAL;
	int fd = journal_bind(p.path);
	place_open(&p);
	int64_t were = WRITTEN + LOST, lost = LOST;
	put(&p, 200);
	put(&p, 404);
	settle(&p, were, 2);
	for (int i = 0; i < 2; i++) { /* an entry a datagram */
		ssize_t n = recv(fd, got, sizeof(got) - 1, 0);
		assert_true(n > 0);
		got[n] = 0;
		assert_non_null(strstr(got, i ? "\nKM_STATUS=404\n" : "\nKM_STATUS=200\n"));
		assert_non_null(strstr(got, "\nMESSAGE="));
		assert_null(strstr(got, "\n\n"));
		assert_int_equal(got[n - 1], '\n');
	}
	/* It is restarted. */
	close(fd);
	unlink(p.path);
	fd = journal_bind(p.path);
	put(&p, 200);
	settle(&p, were, 3);
	assert_true(recv(fd, got, sizeof(got), MSG_DONTWAIT) > 0);
	assert_int_equal(LOST, lost);
	/* It reads no more. */
	for (int i = 0; i < 2000; i++)
		put(&p, 200);
	settle(&p, were, 2003);
	assert_true(LOST > lost);
	close(fd);
	/* It is gone. */
	unlink(p.path);
	lost = LOST;
	put(&p, 200);
	settle(&p, were, 2004);
	assert_int_equal(LOST - lost, 1);
	place_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_text),           cmocka_unit_test(test_json),
	    cmocka_unit_test(test_journal),        cmocka_unit_test(test_any_bytes),
	    cmocka_unit_test(test_cut_characters), cmocka_unit_test(test_bounds),
	    cmocka_unit_test(test_clock),          cmocka_unit_test(test_sample),
	    cmocka_unit_test(test_file),           cmocka_unit_test(test_moved_away),
	    cmocka_unit_test(test_no_folder),      cmocka_unit_test(test_full),
	    cmocka_unit_test(test_stuck),          cmocka_unit_test(test_sampled),
	    cmocka_unit_test(test_to_journal),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
