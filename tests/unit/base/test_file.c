/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/util.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Each test has a folder of its own and stands in it. */
static int enter_folder(void **state)
{
	char name[] = "/tmp/km-test-XXXXXX";

	if (!mkdtemp(name) || chdir(name))
		return -1;
	*state = strdup(name);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static int leave_folder(void **state)
{
	int err = chdir("/") || nftw(*state, remove_one, 8, FTW_DEPTH | FTW_PHYS);

	free(*state);
	return err;
}

static unsigned entries(const char *folder)
{
	DIR *d = opendir(folder);
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	return n;
}

static void assert_content(const char *path, const char *text)
{
	char *out;
	size_t n;

	assert_int_equal(km_file_read(path, 1 << 20, &out, &n), 0);
	assert_int_equal(n, strlen(text));
	assert_string_equal(out, text);
	free(out);
}

static void write_then_read(void **state)
{
	char full[256];
	struct stat st;
	mode_t mask;

	assert_int_equal(km_file_write("a", "one", 3, 0600), 0);
	assert_content("a", "one");
	mask = umask(077);
	assert_int_equal(km_file_write("a", "", 0, 0644), 0);
	umask(mask);
	assert_content("a", "");
	assert_int_equal(stat("a", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	snprintf(full, sizeof(full), "%s/a", (char *)*state);
	assert_int_equal(km_file_write(full, "two", 3, 0600), 0);
	assert_content("a", "two");
	assert_int_equal(entries("."), 1);
}

static void read_is_bounded(void **state)
{
	char big[10000], *out = NULL;
	size_t n = 7;

	(void)state;
	memset(big, 'x', sizeof(big));
	big[5000] = '\0';
	assert_int_equal(km_file_write("big", big, sizeof(big), 0600), 0);
	assert_int_equal(km_file_read("big", sizeof(big) - 1, &out, &n), KM_ETOOBIG);
	assert_null(out);
	assert_int_equal(km_file_read("big", sizeof(big), &out, &n), 0);
	assert_int_equal(n, sizeof(big));
	assert_memory_equal(out, big, n);
	assert_int_equal(out[n], '\0');
	free(out);
	assert_int_equal(km_file_read("absent", 10, &out, &n), KM_EIO);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(km_file_read(".", 10, &out, &n), KM_EIO);
	assert_int_equal(errno, EISDIR);
}

/* The disk refuses in the middle of the write: the old file stands, and nothing lies beside it. */
static void failed_write_leaves_the_old(void **state)
{
	struct rlimit old, small;
	char big[8192];
	int err, e;

	(void)state;
	memset(big, 'x', sizeof(big));
	assert_int_equal(km_file_write("a", "old", 3, 0600), 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){4096, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &small);
	err = km_file_write("a", big, sizeof(big), 0600);
	e = errno;
	setrlimit(RLIMIT_FSIZE, &old);
	signal(SIGXFSZ, SIG_DFL);
	assert_int_equal(err, KM_EIO);
	assert_int_equal(e, EFBIG);
	assert_content("a", "old");
	assert_int_equal(entries("."), 1);
}

static void failed_rename_leaves_the_old(void **state)
{
	char name[5000];

	(void)state;
	assert_int_equal(mkdir("folder", 0700), 0);
	assert_int_equal(km_file_write("folder/inside", "old", 3, 0600), 0);
	assert_int_equal(km_file_write("folder", "new", 3, 0600), KM_EIO);
	assert_int_equal(errno, EISDIR);
	assert_content("folder/inside", "old");
	assert_int_equal(entries("."), 1);
	assert_int_equal(km_file_write("absent/file", "x", 1, 0600), KM_EIO);
	assert_int_equal(errno, ENOENT);
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(km_file_write(name, "x", 1, 0600), KM_EIO);
	assert_int_equal(errno, ENAMETOOLONG);
}

static void secrets(void **state)
{
	static const struct {
		const char *text;
		mode_t mode;
		int err;
		const char *out;
	} table[] = {
	    {"km_0123", 0600, 0, "km_0123"},
	    {"km_0123\n", 0400, 0, "km_0123"},
	    {" two words \t\r\n\n", 0600, 0, " two words"},
	    {"", 0600, KM_EINVAL, "empty"},
	    {" \n\n", 0600, KM_EINVAL, "empty"},
	    {"a\nb\n", 0600, KM_EINVAL, "one line"},
	    {"km_0123", 0640, KM_EPERM, "0640"},
	    {"km_0123", 0604, KM_EPERM, "0604"},
	    {"km_01234567890123456789", 0600, KM_ETOOBIG, "longer than 20"},
	};
	struct km_errtext err;
	char *out;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		assert_int_equal(km_file_write("s", table[i].text, strlen(table[i].text),
					       table[i].mode),
				 0);
		assert_int_equal(km_secret_read("s", 20, &out, &err), table[i].err);
		if (table[i].err) {
			assert_non_null(strstr(err.text, table[i].out));
			continue;
		}
		assert_string_equal(out, table[i].out);
		free(out);
	}
	assert_int_equal(km_secret_read("absent", 20, &out, &err), KM_EIO);
	assert_non_null(strstr(err.text, "No such file"));
	assert_int_equal(mkdir("folder", 0755), 0);
	assert_int_equal(km_secret_read("folder", 20, &out, &err), KM_EINVAL);
	assert_string_equal(err.text, "folder is a directory, but must be a file");
}

/* A credential of systemd may look readable by a group; nothing else may. */
static void credentials(void **state)
{
	char dir[4096], path[4200], *out;

	(void)state;
	assert_non_null(getcwd(dir, sizeof(dir)));
	assert_int_equal(km_file_write("credential", "km_0123", 7, 0440), 0);
	snprintf(path, sizeof(path), "%s/credential", dir);
	assert_int_equal(km_secret_read(path, 20, &out, NULL), KM_EPERM);
	assert_int_equal(setenv("CREDENTIALS_DIRECTORY", dir, 1), 0);
	assert_int_equal(km_secret_read(path, 20, &out, NULL), 0);
	assert_string_equal(out, "km_0123");
	free(out);
	assert_int_equal(km_secret_read("credential", 20, &out, NULL), KM_EPERM);
	assert_int_equal(chmod("credential", 0444), 0);
	assert_int_equal(km_secret_read(path, 20, &out, NULL), KM_EPERM);
	assert_int_equal(unsetenv("CREDENTIALS_DIRECTORY"), 0);
}

static void folders(void **state)
{
	struct stat st;
	mode_t mask = umask(022);

	(void)state;
	assert_int_equal(km_mkdirs("x/y//z/", 0700), 0);
	assert_int_equal(stat("x/y/z", &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	/* another daemon's folder may lie beside it, under another user */
	assert_int_equal(stat("x/y", &st), 0);
	assert_int_equal(st.st_mode & 0777, 0755);
	assert_int_equal(km_mkdirs("x/y/z", 0700), 0);
	assert_int_equal(km_mkdirs("/", 0700), 0);
	assert_int_equal(km_file_write("file", "", 0, 0600), 0);
	assert_int_equal(km_mkdirs("file", 0700), KM_EIO);
	assert_int_equal(errno, ENOTDIR);
	assert_int_equal(km_mkdirs("file/under", 0700), KM_EIO);
	assert_int_equal(km_mkdirs("", 0700), KM_EIO);
	umask(mask);
}

#define in_folder(f) cmocka_unit_test_setup_teardown(f, enter_folder, leave_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    in_folder(write_then_read),
	    in_folder(read_is_bounded),
	    in_folder(failed_write_leaves_the_old),
	    in_folder(failed_rename_leaves_the_old),
	    in_folder(secrets),
	    in_folder(credentials),
	    in_folder(folders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
