/* SPDX-License-Identifier: MIT */
/* A configuration that came while the disk was full is acknowledged when there is room. */
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/replica/saver.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#define ID(n) "00000000-0000-4000-8000-00000000000" #n
#define SELF                                                                                       \
	"\"agent\": {\"id\": \"" ID(9) "\", \"name\": \"n\", \"virtualIp\": \"10.1.0.100\", "      \
				       "\"subnet\": \"10.1.0.0/24\"}"

struct test {
	char dir[64];
	struct event_base *base;
	struct km_replica *r;
	struct km_saver *saver;
	json_t *ack;
	bool late;
};

static void saved(void *arg, json_t *ack)
{
	struct test *t = arg;

	assert_null(t->ack);
	t->ack = ack;
	event_base_loopbreak(t->base);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
	struct test *t = arg;

	(void)fd;
	(void)what;
	t->late = true;
	event_base_loopbreak(t->base);
}

static int setup(void **state)
{
	struct test *t = calloc(1, sizeof *t);
	struct km_errtext err;

	*state = t;
	strcpy(t->dir, "/tmp/km-saver-XXXXXX");
	if (!mkdtemp(t->dir))
		return -1;
	t->base = event_base_new();
	if (mount("tmpfs", t->dir, "tmpfs", 0, "size=16k"))
		return 0; /* no right to: the test is skipped */
	assert_int_equal(km_replica_open(&t->r, t->dir, NULL, NULL, &err), 0);
	t->saver = km_saver_new(t->base, t->r, 10, saved, t);
	return t->saver ? 0 : -1;
}

static int teardown(void **state)
{
	struct test *t = *state;

	km_saver_free(t->saver);
	km_replica_free(t->r);
	json_decref(t->ack);
	event_base_free(t->base);
	umount2(t->dir, MNT_DETACH);
	rmdir(t->dir);
	free(t);
	return 0;
}

static int64_t unsaved(void)
{
	return km_metric(KM_METRIC_GAUGE, "kakuremichi_configuration_unsaved", "", "")->value;
}

/* What km_replica_take gave, told to the saver. */
static int take(struct test *t, int revision)
{
	json_t *data = json_loads("{\"epoch\": \"e\", " SELF "}", 0, NULL), *ack = NULL;
	struct km_errtext err = {""};
	int rc;

	assert_non_null(data);
	json_object_set_new(data, "revision", json_integer(revision));
	rc = km_replica_take(t->r, "config", data, &ack, &err);
	assert_int_equal(km_saver_taken(t->saver, rc, &err), rc == KM_EIO);
	json_decref(data);
	json_decref(ack);
	return rc;
}

static void fill(const struct test *t, char filler[static 128])
{
	static char block[4096];
	int fd;

	snprintf(filler, 128, "%s/filler", t->dir);
	fd = open(filler, O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	while (write(fd, block, sizeof block) > 0)
		;
	close(fd);
}

/* Runs the loop for at most so long. */
static void run(struct test *t, int ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000L};
	struct event *late = evtimer_new(t->base, on_late, t);

	t->late = false;
	event_add(late, &tv);
	event_base_dispatch(t->base);
	event_free(late);
}

static void room_again(void **state)
{
	struct test *t = *state;
	char filler[128];

	if (!t->r)
		skip();
	assert_int_equal(take(t, 1), 0);
	assert_int_equal(unsaved(), 0);
	fill(t, filler);
	assert_int_equal(take(t, 2), KM_EIO);
	assert_int_equal(take(t, 3), KM_EIO);
	assert_int_equal(unsaved(), 1);
	run(t, 100); /* several attempts */
	assert_true(t->late);
	unlink(filler);
	run(t, 10000);
	assert_false(t->late);
	assert_non_null(t->ack);
	assert_int_equal(json_integer_value(json_object_get(t->ack, "revision")), 3);
	assert_int_equal(unsaved(), 0);
}

/* The next message found room before the timer did: its ack is enough. */
static void the_next_message_was_first(void **state)
{
	struct test *t = *state;
	char filler[128];

	if (!t->r)
		skip();
	assert_int_equal(take(t, 1), 0);
	fill(t, filler);
	assert_int_equal(take(t, 2), KM_EIO);
	unlink(filler);
	assert_int_equal(take(t, 3), 0);
	assert_int_equal(unsaved(), 0);
	run(t, 100);
	assert_true(t->late);
	assert_null(t->ack);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(room_again, setup, teardown),
	    cmocka_unit_test_setup_teardown(the_next_message_was_first, setup, teardown),
	};

	km_log_init("test", getenv("KM_TEST_DEBUG") ? KM_LOG_DEBUG : KM_LOG_WARN, KM_LOG_TEXT);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
