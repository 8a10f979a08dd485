/* SPDX-License-Identifier: MIT */
#include "libkm/link/resolve.h"
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct km_resolve {
	pthread_mutex_t lock;
	int refs; /* the helper thread and the caller */
	void (*done)(void *arg);
	void *arg;
	int gai; /* getaddrinfo's status */
	size_t n;
	struct km_addr addr[KM_RESOLVE_MAX];
	char host[254];
};

static void unref(struct km_resolve *r)
{
	pthread_mutex_lock(&r->lock);
	int left = --r->refs;
	pthread_mutex_unlock(&r->lock);
	if (left)
		return;
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static bool known(const struct km_resolve *r, const struct km_addr *a)
{
	for (size_t i = 0; i < r->n; i++)
		if (km_addr_eq(&r->addr[i], a))
			return true;
	return false;
}

static void *helper(void *p)
{
	struct km_resolve *r = p;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG},
			*list = NULL;

	int gai = getaddrinfo(r->host, NULL, &hints, &list);
	pthread_mutex_lock(&r->lock);
	r->gai = gai;
	for (struct addrinfo *i = gai ? NULL : list; i && r->n < KM_RESOLVE_MAX; i = i->ai_next) {
		struct km_addr a;
		if (km_addr_from_sa(&a, NULL, i->ai_addr) == 0 && !known(r, &a))
			r->addr[r->n++] = a;
	}
	if (r->done)
		r->done(r->arg);
	pthread_mutex_unlock(&r->lock);
	if (list)
		freeaddrinfo(list);
	unref(r);
	return NULL;
}

int km_resolve_start(struct km_resolve **out, const char *host, void (*done)(void *arg), void *arg)
{
	struct km_resolve *r = calloc(1, sizeof(*r));
	pthread_attr_t attr;
	pthread_t thread;
	int e;

	if (!r)
		return KM_ENOMEM;
	if (strlen(host) >= sizeof(r->host)) {
		free(r);
		return KM_EINVAL;
	}
	pthread_mutex_init(&r->lock, NULL);
	r->refs = 2;
	r->done = done;
	r->arg = arg;
	strcpy(r->host, host);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	e = pthread_create(&thread, &attr, helper, r);
	pthread_attr_destroy(&attr);
	if (e) {
		pthread_mutex_destroy(&r->lock);
		free(r);
		return KM_EIO;
	}
	*out = r;
	return 0;
}

size_t km_resolve_result(struct km_resolve *r, struct km_addr out[static KM_RESOLVE_MAX],
			 struct km_errtext *err)
{
	pthread_mutex_lock(&r->lock);
	size_t n = r->n;
	memcpy(out, r->addr, n * sizeof(out[0]));
	if (!n)
		km_errtext_set(err, KM_ENOTFOUND, "the name %s does not resolve: %s", r->host,
			       r->gai ? gai_strerror(r->gai) : "no address");
	pthread_mutex_unlock(&r->lock);
	return n;
}

void km_resolve_free(struct km_resolve *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->done = NULL;
	pthread_mutex_unlock(&r->lock);
	unref(r);
}
