/* SPDX-License-Identifier: MIT */
#include "tests/unit/controld/fixture.h"
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

static int dir_setup(void **state)
{
	static struct fix f;

	fix_dir(&f);
	*state = &f;
	return 0;
}

static int dir_teardown(void **state)
{
	fix_stop(*state);
	return 0;
}

static bool ends(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, FIX_PATIENCE_MS) == 1;
}

static void write_text(const struct fix *f, const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/postgres/data/%s", f->dir, name);
	assert_int_equal(km_file_write(path, text, strlen(text), 0644), 0);
}

static void data_survive_a_restart(void **state)
{
	struct fix *f = *state;
	PGconn *db;
	int pidfd;

	fix_start(f);
	assert_non_null(strstr(embedded_conninfo(f->db), f->dir));
	db = fix_connect(f);
	fix_value(db, "CREATE TABLE kept AS SELECT 42 AS n");
	assert_string_equal(fix_value(db, "SHOW listen_addresses"), "");
	PQfinish(db);
	pidfd = pidfd_open(embedded_pid(f->db), 0);
	embedded_free(f->db);
	f->db = NULL;
	assert_true(ends(pidfd));
	close(pidfd);

	fix_start(f);
	db = fix_connect(f);
	assert_string_equal(fix_value(db, "SELECT n FROM kept"), "42");
	PQfinish(db);
}

static void only_its_user_gets_in(void **state)
{
	struct fix *f = *state;
	const char *dirs[] = {"data", "run"};
	struct stat st;
	char path[128];

	fix_start(f);
	for (size_t i = 0; i < KM_ARRAY_LEN(dirs); i++) {
		snprintf(path, sizeof(path), "%s/postgres/%s", f->dir, dirs[i]);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 077, 0);
		if (geteuid() == 0)
			assert_int_equal(st.st_uid, getpwnam("postgres")->pw_uid);
	}
}

static void dying_server_is_started_again(void **state)
{
	struct fix *f = *state;
	pid_t first;

	fix_start(f);
	first = embedded_pid(f->db);
	kill(first, SIGQUIT);
	fix_until(f->base, f->ready == 2);
	assert_int_not_equal(embedded_pid(f->db), first);
	PQfinish(fix_connect(f));
	/* and once more, without any farewell */
	kill(embedded_pid(f->db), SIGKILL);
	fix_until(f->base, f->ready == 3);
	PQfinish(fix_connect(f));
}

/* What a controld does until it is killed; tells the server's process id through out. */
static void be_controld(struct fix *f, int out)
{
	struct km_errtext err;
	pid_t pid;

	event_reinit(f->base);
	if (fix_embedded(f, &err))
		_exit(1);
	while (!f->ready && !*f->failed)
		event_base_loop(f->base, EVLOOP_ONCE);
	pid = embedded_pid(f->db);
	if (write(out, &pid, sizeof(pid)) != sizeof(pid))
		_exit(1);
	for (;;)
		pause();
}

static void killed_controld_leaves_no_server(void **state)
{
	struct fix *f = *state;
	int p[2], pidfd;
	pid_t child, server;

	assert_int_equal(pipe(p), 0);
	child = fork();
	if (child == 0)
		be_controld(f, p[1]);
	close(p[1]);
	assert_int_equal(read(p[0], &server, sizeof(server)), sizeof(server));
	close(p[0]);
	pidfd = pidfd_open(server, 0);
	assert_true(pidfd >= 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_true(ends(pidfd));
	close(pidfd);
	fix_start(f); /* and its data are well */
	PQfinish(fix_connect(f));
}

/* Starts a server that nobody owns, as if the death signal had been lost. */
static pid_t leave_a_server(const struct fix *f)
{
	char line[512], path[128], *text = NULL;
	size_t n;
	pid_t pid;

	snprintf(line, sizeof(line),
		 "%s%s/pg_ctl -w -s -D %s/postgres/data -l /dev/null -o \"-k %s/postgres/run -c "
		 "listen_addresses=\" start%s",
		 geteuid() == 0
		     ? "cd / && setpriv --reuid postgres --regid postgres --clear-groups "
		     : "",
		 FIX_PROGRAMS, f->dir, f->dir, "");
	assert_int_equal(system(line), 0);
	snprintf(path, sizeof(path), "%s/postgres/data/postmaster.pid", f->dir);
	assert_int_equal(km_file_read(path, 4096, &text, &n), 0);
	pid = (pid_t)atoi(text);
	free(text);
	return pid;
}

static void leftover_server_is_stopped(void **state)
{
	struct fix *f = *state;
	pid_t left;
	int pidfd;

	fix_start(f);
	embedded_free(f->db);
	f->db = NULL;
	left = leave_a_server(f);
	pidfd = pidfd_open(left, 0);
	assert_true(pidfd >= 0);
	fix_start(f);
	assert_true(ends(pidfd));
	close(pidfd);
	assert_int_not_equal(embedded_pid(f->db), left);
	PQfinish(fix_connect(f));
}

static void stale_pid_file_harms_nobody(void **state)
{
	struct fix *f = *state;
	pid_t other = fork();
	char text[64];

	if (other == 0)
		for (;;)
			pause();
	fix_start(f);
	embedded_free(f->db);
	f->db = NULL;
	snprintf(text, sizeof(text), "%d\n%s/postgres/data\n", (int)other, f->dir);
	write_text(f, "postmaster.pid", text);
	fix_start(f);
	assert_int_equal(waitpid(other, NULL, WNOHANG), 0); /* lives */
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
}

static void other_version_is_refused(void **state)
{
	struct fix *f = *state;
	struct km_errtext err = {""};

	fix_start(f);
	embedded_free(f->db);
	f->db = NULL;
	write_text(f, "PG_VERSION", "13\n");
	assert_int_equal(fix_embedded(f, &err), KM_EUNSUPPORTED);
	assert_null(f->db);
	assert_non_null(strstr(err.text, "PostgreSQL 13"));
	assert_non_null(strstr(err.text, "pg_dumpall"));
}

static void interrupted_initdb_is_begun_anew(void **state)
{
	struct fix *f = *state;
	char path[128];

	snprintf(path, sizeof(path), "%s/postgres/data.new/base", f->dir);
	assert_int_equal(km_mkdirs(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/postgres/data.new/PG_VERSION", f->dir);
	assert_int_equal(km_file_write(path, "15\n", 3, 0600), 0);
	fix_start(f);
	PQfinish(fix_connect(f));
}

static void ends_in_the_midst_of_initdb(void **state)
{
	struct fix *f = *state;
	struct km_errtext err;

	assert_int_equal(fix_embedded(f, &err), 0);
	fix_until(f->base, embedded_pid(f->db) > 0);
	embedded_free(f->db);
	f->db = NULL;
	fix_start(f);
}

static void says_what_is_wrong(void **state)
{
	static const struct embedded_cbs cbs = {fix_on_ready, fix_on_failed};
	struct fix *f = *state;
	char longest[200];
	struct embedded_opts o = {f->dir, "postgres", "/nonexistent"};
	struct km_errtext err = {""};

	assert_int_equal(embedded_start(&f->db, f->base, &o, &cbs, f, &err), KM_ENOTFOUND);
	assert_non_null(strstr(err.text, "database_program_dir"));
	if (geteuid() == 0) {
		o = (struct embedded_opts){f->dir, "no-such-user", FIX_PROGRAMS};
		assert_int_equal(embedded_start(&f->db, f->base, &o, &cbs, f, &err), KM_ENOTFOUND);
		assert_non_null(strstr(err.text, "no-such-user"));
	}
	memset(longest, 'x', sizeof(longest));
	longest[0] = '/';
	longest[sizeof(longest) - 1] = '\0';
	o = (struct embedded_opts){longest, "postgres", FIX_PROGRAMS};
	assert_int_equal(embedded_start(&f->db, f->base, &o, &cbs, f, &err), KM_EINVAL);
	assert_non_null(strstr(err.text, "too long"));
}

static void impassable_folder_is_named(void **state)
{
	struct fix *f = *state;
	struct km_errtext err;

	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(f->dir, 0700), 0);
	assert_int_equal(fix_embedded(f, &err), 0);
	fix_until(f->base, *f->failed);
	assert_non_null(strstr(f->failed, "chmod o+x"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(data_survive_a_restart),        T(only_its_user_gets_in),
	    T(dying_server_is_started_again), T(killed_controld_leaves_no_server),
	    T(leftover_server_is_stopped),    T(stale_pid_file_harms_nobody),
	    T(other_version_is_refused),      T(interrupted_initdb_is_begun_anew),
	    T(ends_in_the_midst_of_initdb),   T(says_what_is_wrong),
	    T(impassable_folder_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
