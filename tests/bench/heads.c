/* SPDX-License-Identifier: MIT */
/* What heads cost, in ns: found and read (a browser's request, a small one, a target's answer), and
 * written on. The peer is memchr over the same bytes, as the least that anyone who looks at them
 * pays. */
#include "gatewayd/edge/heads.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char browser[] =
    "GET /assets/app/main.4f2a91c8.js?v=20240611&lang=en-GB HTTP/1.1\r\n"
    "Host: hello.example.org\r\n"
    "Connection: keep-alive\r\n"
    "sec-ch-ua: \"Not/A)Brand\";v=\"8\", \"Chromium\";v=\"126\", \"Google Chrome\";v=\"126\"\r\n"
    "sec-ch-ua-mobile: ?0\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36\r\n"
    "sec-ch-ua-platform: \"Linux\"\r\n"
    "Accept: "
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
    "Sec-Fetch-Mode: no-cors\r\n"
    "Sec-Fetch-Dest: script\r\n"
    "Referer: https://hello.example.org/assets/index.html\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\n"
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
    "Cookie: session=3f0c2b8e9a7d4c61b5e2f1a09d8c7b6a; theme=dark; "
    "_ga=GA1.2.1234567890.1718100000; "
    "consent=YES+cb.20240611-07-p0.en+FX+123\r\n"
    "If-None-Match: \"66681f2a-1c8f4\"\r\n"
    "If-Modified-Since: Tue, 11 Jun 2024 09:55:54 GMT\r\n"
    "\r\n";
static const char small[] =
    "GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x/1\r\nAccept: */*\r\n\r\n";
static const char answer[] =
    "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 11 Jun 2024 09:55:54 GMT\r\n"
    "Content-Type: text/html; charset=utf-8\r\nContent-Length: 1024\r\n"
    "Last-Modified: Tue, 11 Jun 2024 09:55:54 GMT\r\nConnection: keep-alive\r\n"
    "ETag: \"66681f2a-400\"\r\nCache-Control: max-age=3600\r\nAccept-Ranges: bytes\r\n\r\n";

static const struct http_limits limits = {65536, HTTP_FIELDS_MAX};
static struct http_request request;
static struct http_response response;
static const char *why;

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void find(const char *p, size_t n)
{
	size_t at = 0;
	must(h1_scan(p, n, &at, limits.head) == (int)n);
}

static void read_request(const char *p, size_t n)
{
	must(!h1_request_parse(&request, p, n, &limits, &why));
}

static void read_answer(const char *p, size_t n)
{
	must(!h1_response_parse(&response, p, n, false, &limits, &why));
}

static void write_request(const char *p, size_t n)
{
	static struct km_buf out = {.max = 1 << 20};
	static const struct km_addr client = {.family = 2, .ip = {192, 0, 2, 1}};
	static struct client from;
	(void)p;
	(void)n;
	km_buf_clear(&out);
	client_find(&from, &(struct client_trust){0}, &client, true, &request);
	must(!heads_request(&out, &request, &from));
}

static void look(const char *p, size_t n)
{
	const char *nl = p;
	for (const char *end = p + n; nl < end; nl++)
		must((nl = memchr(nl, '\n', (size_t)(end - nl))) != NULL);
}

/* The best of some rounds: what else the machine does only adds. */
static double ns(void (*what)(const char *, size_t), const char *p, size_t n)
{
	enum { TIMES = 20000, ROUNDS = 15 };
	double best = 1e9;
	for (int r = 0; r < ROUNDS; r++) {
		struct timespec a, b;
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
		for (int i = 0; i < TIMES; i++) {
			what(p, n);
			__asm__ volatile("" ::: "memory");
		}
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
		double t =
		    ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / TIMES;
		best = t < best ? t : best;
	}
	return best;
}

static void row(const char *name, void (*parse)(const char *, size_t), const char *p, size_t n,
		bool writes)
{
	double least = ns(look, p, n), scan = ns(find, p, n), read = ns(parse, p, n);
	printf("%-18s %6zu %8.0f %8.0f %8.0f", name, n, least, scan, read);
	if (writes)
		printf(" %8.0f", ns(write_request, p, n));
	else
		printf(" %8s", "-");
	printf(" %8.1f\n", (scan + read) / least);
}

int main(void)
{
	printf("%-18s %6s %8s %8s %8s %8s %8s\n", "head", "bytes", "memchr", "h1_scan", "parse",
	       "write", "ratio");
	row("browser's request", read_request, browser, sizeof(browser) - 1, true);
	row("small request", read_request, small, sizeof(small) - 1, true);
	row("answer", read_answer, answer, sizeof(answer) - 1, false);
	return 0;
}
