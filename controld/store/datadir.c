/* SPDX-License-Identifier: MIT */
#include "controld/store/datadir.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_NAME "/.s.PGSQL.5432"

static int make_dir(const char *path, mode_t mode, const struct child_user *u,
		    struct km_errtext *err)
{
	struct stat st;

	if (mkdir(path, mode) != 0 && errno != EEXIST)
		return km_errtext_set(err, KM_EIO, "%s: %s", path, strerror(errno));
	if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode))
		return km_errtext_set(err, KM_EIO, "%s is not a folder", path);
	if (chmod(path, mode) != 0 || (u && u->change && lchown(path, u->uid, u->gid) != 0))
		return km_errtext_set(err, KM_EIO, "%s: %s", path, strerror(errno));
	return 0;
}

int datadir_open(struct datadir *d, const char *state_dir, const struct child_user *u,
		 struct km_errtext *err)
{
	size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1 - strlen(SOCKET_NAME);
	int rc;

	*d = (struct datadir){
	    .top = km_xasprintf("%s/postgres", state_dir),
	    .data = km_xasprintf("%s/postgres/data", state_dir),
	    .fresh = km_xasprintf("%s/postgres/data.new", state_dir),
	    .run = km_xasprintf("%s/postgres/run", state_dir),
	};
	if (strlen(d->run) > most)
		return km_errtext_set(
		    err, KM_EINVAL,
		    "state_dir is too long: %s has more than %zu bytes, and a socket must "
		    "be in there",
		    d->run, most);
	rc = make_dir(d->top, 0711, NULL, err);
	return rc ? rc : make_dir(d->run, 0700, u, err);
}

void datadir_close(struct datadir *d)
{
	free(d->top);
	free(d->data);
	free(d->fresh);
	free(d->run);
}

/* A small file in the data; the caller frees. NULL: not there. */
static char *read_small(const struct datadir *d, const char *name)
{
	char *path = km_xasprintf("%s/%s", d->data, name), *text = NULL;
	size_t n;

	if (km_file_read(path, 4096, &text, &n))
		text = NULL;
	free(path);
	return text;
}

bool datadir_made(const struct datadir *d)
{
	char *version = read_small(d, "PG_VERSION");

	free(version);
	return version != NULL;
}

/* ---- a fresh one ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

int datadir_make_fresh(const struct datadir *d, const struct child_user *u, struct km_errtext *err)
{
	struct stat st;

	if (lstat(d->data, &st) == 0 && rmdir(d->data) != 0)
		return km_errtext_set(
		    err, KM_EIO, "%s is not empty, but holds no database (no PG_VERSION)", d->data);
	if (lstat(d->fresh, &st) == 0 &&
	    nftw(d->fresh, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
		return km_errtext_set(err, KM_EIO, "removing %s: %s", d->fresh, strerror(errno));
	return make_dir(d->fresh, 0700, u, err);
}

/* ---- versions ---- */

/* "postgres (PostgreSQL) 15.20 (Debian …)": 15; -1 when it does not say so. */
static int program_version(const struct child_user *u, const char *postgres)
{
	char *argv[] = {(char *)postgres, "-V", NULL};
	char text[256], *at;
	int p[2], pidfd, major = -1;
	struct child_opts o = {.argv = argv, .death_signal = SIGKILL};
	ssize_t n;
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) != 0)
		return -1;
	o.out_fd = p[1];
	if (child_start(&pid, &pidfd, u, &o) == 0) {
		close(p[1]);
		n = read(p[0], text, sizeof(text) - 1);
		text[n > 0 ? n : 0] = '\0';
		at = strstr(text, "(PostgreSQL) ");
		if (child_ended(pidfd, 10000) && child_reap(pidfd) == 0 && at)
			major = atoi(at + strlen("(PostgreSQL) "));
		close(pidfd);
	} else {
		close(p[1]);
	}
	close(p[0]);
	return major;
}

static void log_conversion(const struct datadir *d, const char *old, int new)
{
	char *steps[] = {
	    km_xasprintf("su postgres -s /bin/sh -c '/usr/lib/postgresql/%s/bin/pg_ctl -w -D %s -o "
			 "\"-k %s -c listen_addresses=\" start'",
			 old, d->data, d->run),
	    km_xasprintf(
		"/usr/lib/postgresql/%s/bin/pg_dumpall -h %s -U postgres > /root/kakuremichi.sql",
		old, d->run),
	    km_xasprintf(
		"su postgres -s /bin/sh -c '/usr/lib/postgresql/%s/bin/pg_ctl -w -D %s stop'", old,
		d->data),
	    km_xasprintf("mv %s %s-%s", d->data, d->data, old),
	    km_xasprintf("install -d -o postgres -m 700 %s", d->data),
	    km_xasprintf(
		"su postgres -s /bin/sh -c '/usr/lib/postgresql/%d/bin/initdb -D %s -U postgres "
		"--auth-local=trust --auth-host=reject -E UTF8 --locale=C'",
		new, d->data),
	    km_xasprintf("su postgres -s /bin/sh -c '/usr/lib/postgresql/%d/bin/pg_ctl -w -D %s -o "
			 "\"-k %s -c listen_addresses=\" start'",
			 new, d->data, d->run),
	    km_xasprintf("psql -h %s -U postgres -f /root/kakuremichi.sql postgres", d->run),
	    km_xasprintf(
		"su postgres -s /bin/sh -c '/usr/lib/postgresql/%d/bin/pg_ctl -w -D %s stop'", new,
		d->data),
	};

	for (size_t i = 0; i < KM_ARRAY_LEN(steps); i++) {
		km_error("to convert the database", km_ki("step", i + 1), km_ks("run", steps[i]));
		free(steps[i]);
	}
}

int datadir_check_version(const struct datadir *d, const struct child_user *u, const char *postgres,
			  struct km_errtext *err)
{
	char *found = read_small(d, "PG_VERSION");
	int has, rc = 0;

	if (!found)
		return 0;
	found[strcspn(found, "\n")] = '\0';
	has = program_version(u, postgres);
	if (has < 0) {
		rc = km_errtext_set(err, KM_EIO, "%s -V does not say its version", postgres);
	} else if (atoi(found) != has) {
		log_conversion(d, found, has);
		rc = km_errtext_set(
		    err, KM_EUNSUPPORTED,
		    "the data in %s are of PostgreSQL %s, but %s is PostgreSQL %d: set "
		    "database_program_dir to version %s, or dump with pg_dumpall and load into "
		    "a new one (the commands are in the log above)",
		    d->data, found, postgres, has, found);
	}
	free(found);
	return rc;
}

/* ---- a running server ---- */

/* Whether pid is a program called postgres that works in our data folder. */
static bool is_our_server(const struct datadir *d, pid_t pid)
{
	char link[64], exe[PATH_MAX], cwd[PATH_MAX], data[PATH_MAX];
	const char *base;
	ssize_t n, m;

	snprintf(link, sizeof(link), "/proc/%d/exe", (int)pid);
	n = readlink(link, exe, sizeof(exe) - 1);
	snprintf(link, sizeof(link), "/proc/%d/cwd", (int)pid);
	m = readlink(link, cwd, sizeof(cwd) - 1);
	if (n < 0 || m < 0 || !realpath(d->data, data))
		return false;
	exe[n] = cwd[m] = '\0';
	base = strrchr(exe, '/');
	/* "postgres (deleted)" after an upgrade of the package */
	return base && !strncmp(base, "/postgres", 9) && !strcmp(cwd, data);
}

pid_t datadir_leftover(const struct datadir *d, int *pidfd)
{
	char *text = read_small(d, "postmaster.pid"), *path;
	/* A file of a standalone backend has a negative number. */
	pid_t pid = text ? (pid_t)labs(strtol(text, NULL, 10)) : 0;
	bool found = text != NULL;

	free(text);
	*pidfd = -1;
	if (!found)
		return 0;
	if (pid > 1)
		*pidfd =
		    pidfd_open(pid, 0); /* first, so that the number cannot be given anew unseen */
	if (*pidfd >= 0 && is_our_server(d, pid))
		return pid;
	if (*pidfd >= 0)
		close(*pidfd);
	*pidfd = -1;
	path = km_xasprintf("%s/postmaster.pid", d->data);
	unlink(path); /* else the server would refuse to start if another process has that number
			 now */
	free(path);
	return 0;
}

bool datadir_server_ready(const struct datadir *d, pid_t pid)
{
	char *text = read_small(d, "postmaster.pid"), *save, *line;
	bool ready = false;
	int n = 0;

	if (!text)
		return false;
	/* The eighth line is the status; the others are never empty but for the sixth (host). */
	for (save = text; (line = strsep(&save, "\n")); n++) {
		if (n == 0 && strtol(line, NULL, 10) != pid)
			break;
		if (n == 7)
			ready = !strncmp(line, "ready", 5);
	}
	free(text);
	return ready;
}
