/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/addr.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/event/httpd.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct event_base *base;
static struct km_httpd *httpd;
static uint16_t port;
static const char *missing;

static const char *ready(void *arg)
{
	return *(const char **)arg;
}

/* A port that was free a moment ago. */
static uint16_t free_port(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t n = sizeof(in);

	assert_int_equal(bind(fd, (struct sockaddr *)&in, n), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &n), 0);
	close(fd);
	return ntohs(in.sin_port);
}

static int start(void **state)
{
	struct km_errtext err;
	char listen[32];
	int tries = 0;

	(void)state;
	base = event_base_new();
	do {
		port = free_port();
		snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	} while (km_httpd_start(&httpd, base, listen, ready, &missing, &err) && ++tries < 10);
	return httpd ? 0 : -1;
}

static int stop(void **state)
{
	(void)state;
	km_httpd_free(httpd);
	event_base_free(base);
	httpd = NULL;
	return 0;
}

struct answer {
	char text[16384];
	size_t len;
};

static void on_answer(evutil_socket_t fd, short what, void *arg)
{
	struct answer *a = arg;
	ssize_t n = read(fd, a->text + a->len, sizeof(a->text) - 1 - a->len);

	assert_true(what & EV_READ); /* else it timed out */
	if (n > 0) {
		a->len += (size_t)n;
		return;
	}
	event_base_loopbreak(base);
}

/* Sends a request and collects the answer until the server closes. */
static const char *ask(struct answer *a, const char *request)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct timeval limit = {30, 0};
	struct event *ev;

	memset(a, 0, sizeof(*a));
	assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	evutil_make_socket_nonblocking(fd);
	ev = event_new(base, fd, EV_READ | EV_PERSIST, on_answer, a);
	event_add(ev, &limit);
	event_base_dispatch(base);
	event_free(ev);
	close(fd);
	return a->text;
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static void assert_answer(const char *request, const char *status, const char *body)
{
	static struct answer a;
	const char *text = ask(&a, request);

	if (strncmp(text, status, strlen(status)) != 0 || !strstr(text, body))
		fail_msg("%s", text);
}

static void pages(void **state)
{
	(void)state;
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_test", "k=\"v\"", "Test."), 42);
	assert_answer(GET("/metrics"), "HTTP/1.1 200", "\nkakuremichi_test{k=\"v\"} 42\n");
	assert_answer(GET("/metrics"), "HTTP/1.1 200", "text/plain; version=0.0.4");
	assert_answer(GET("/healthz"), "HTTP/1.1 200", "\r\n\r\nok");
	missing = NULL;
	assert_answer(GET("/readyz"), "HTTP/1.1 200", "\r\n\r\nok");
	missing = "no configuration yet";
	assert_answer(GET("/readyz"), "HTTP/1.1 503", "\r\n\r\nno configuration yet");
	assert_answer(GET("/"), "HTTP/1.1 404", "/metrics");
}

static void refusals(void **state)
{
	char big[20000];

	(void)state;
	assert_answer("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
		      "Connection: close\r\n\r\n",
		      "HTTP/1.1 501", "");
	memset(big, 'x', sizeof(big));
	memcpy(big, "GET / HTTP/1.1\r\nX: ", 19);
	strcpy(big + sizeof(big) - 5, "\r\n\r\n");
	assert_answer(big, "HTTP/1.1 400", "");
	/* It still answers. */
	assert_answer(GET("/healthz"), "HTTP/1.1 200", "ok");
}

static void bad_listen(void **state)
{
	struct event_base *b = event_base_new();
	struct km_httpd *h = NULL;
	struct km_errtext err;
	char taken[32];

	(void)state;
	assert_int_equal(km_httpd_start(&h, b, "127.0.0.1", NULL, NULL, &err), KM_EINVAL);
	assert_non_null(strstr(err.text, "port"));
	snprintf(taken, sizeof(taken), "127.0.0.1:%u", port);
	assert_int_equal(km_httpd_start(&h, b, taken, NULL, NULL, &err), KM_EIO);
	assert_non_null(strstr(err.text, "in use"));
	assert_int_equal(km_httpd_start(&h, b, "192.0.2.1:9101", NULL, NULL, &err), KM_EIO);
	assert_non_null(strstr(err.text, "192.0.2.1:9101"));
	assert_null(h);
	assert_int_equal(km_httpd_start(&h, b, NULL, NULL, NULL, &err), 0);
	assert_null(h);
	km_httpd_free(NULL);
	event_base_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(pages, start, stop),
	    cmocka_unit_test_setup_teardown(refusals, start, stop),
	    cmocka_unit_test_setup_teardown(bad_listen, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
