/* SPDX-License-Identifier: MIT */
/* Drives gatewayd/acme/dns for test_dns01.py: settings as gatewayd's (-c FILE), one command a line
 * on standard input, words parted by blanks; each gets an answer "ID ok" or "ID failed TEXT" on
 * standard output when it has ended, ID being its number from 1. present NAME VALUE     a record,
 * kept until `remove ID`     remove ID   (answered at once) add FQDN VALUE         the provider
 * alone                   delete FQDN VALUE persist NAME WILDCARD ACCOUNT ISSUER … At the end of
 * the input it frees everything and ends. */
#include "gatewayd/acme/dns/dns.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COMMANDS_MAX 256
#define WORDS_MAX 16

static struct gw_settings settings;
static struct event_base *base;
static struct dns *dns;
static struct dns_provider *provider;
static struct dns_record *records[COMMANDS_MAX];
static unsigned commands;

static void on_done(void *arg, const char *failed)
{
	printf("%u %s %s\n", (unsigned)(uintptr_t)arg, failed ? "failed" : "ok",
	       failed ? failed : "");
	fflush(stdout);
}

static unsigned split(char *line, char *words[static WORDS_MAX])
{
	unsigned n = 0;
	for (char *w = strtok(line, " \n"); w && n < WORDS_MAX - 1; w = strtok(NULL, " \n"))
		words[n++] = w;
	words[n] = NULL;
	return n;
}

static void command(char *line)
{
	char *w[WORDS_MAX];
	unsigned n = split(line, w);
	void *id = (void *)(uintptr_t)++commands;

	if (commands == COMMANDS_MAX)
		exit(2);
	if (n == 3 && !strcmp(w[0], "present")) {
		records[commands] = dns_record_present(dns, provider, w[1], w[2],
						       settings.dns_timeout, on_done, id);
	} else if (n == 2 && !strcmp(w[0], "remove")) {
		unsigned which = (unsigned)atoi(w[1]) % COMMANDS_MAX;
		dns_record_remove(records[which]);
		records[which] = NULL;
		on_done(id, NULL);
	} else if (n == 3 && (!strcmp(w[0], "add") || !strcmp(w[0], "delete"))) {
		provider->ops->change(provider, w[0][0] == 'a', w[1], w[2], on_done, id);
	} else if (n >= 5 && !strcmp(w[0], "persist")) {
		dns_persist_check(dns, w[1], !strcmp(w[2], "yes"), (const char *const *)w + 4, w[3],
				  on_done, id);
	} else {
		fprintf(stderr, "not a command: %s\n", n ? w[0] : "");
		exit(2);
	}
}

static void on_input(evutil_socket_t fd, short what, void *arg)
{
	static char buf[65536];
	static size_t len;
	ssize_t n = read(fd, buf + len, sizeof(buf) - len - 1);
	char *end;

	(void)what;
	(void)arg;
	if (n <= 0) {
		event_base_loopbreak(base);
		return;
	}
	len += (size_t)n;
	buf[len] = '\0';
	while ((end = strchr(buf, '\n'))) {
		*end = '\0';
		command(buf);
		len -= (size_t)(end + 1 - buf);
		memmove(buf, end + 1, len + 1);
	}
}

int main(int argc, char **argv)
{
	struct km_errtext err = {""};
	struct event *input;
	bool verbose;
	int status = km_program_start(&gw_settings_spec, argc, argv, &settings, &verbose);

	if (status != KM_PROGRAM_RUN)
		return status;
	base = event_base_new();
	input = event_new(base, 0, EV_READ | EV_PERSIST, on_input, NULL);
	if (dns_new(&dns, base, &settings.dns_resolvers, &err) ||
	    dns_provider_new(&provider, base, dns, &settings, &err)) {
		fprintf(stderr, "%s\n", err.text);
		status = 1;
	} else {
		puts("ready");
		fflush(stdout);
		event_add(input, NULL);
		event_base_dispatch(base);
		status = 0;
	}
	for (unsigned i = 0; i < COMMANDS_MAX; i++)
		dns_record_remove(records[i]);
	dns_provider_free(provider);
	dns_free(dns);
	event_free(input);
	event_base_free(base);
	km_conf_free(&gw_settings_spec, &settings);
	return status;
}
