/* SPDX-License-Identifier: MIT */
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_keep_errno(int fd)
{
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
}

/* Reads to the end, at most max bytes. */
static int read_all(int fd, size_t max, char **out, size_t *n)
{
	size_t len = 0, cap = 0;
	char *data = NULL;
	int err = 0;

	for (;;) {
		ssize_t got;

		if (len + 1 >= cap) {
			size_t want = cap ? cap * 2 : 4096;
			char *more = realloc(data, want);

			if (!more) {
				err = KM_ENOMEM;
				break;
			}
			data = more;
			cap = want;
		}
		got = read(fd, data + len, cap - 1 - len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			err = KM_EIO;
		if (got <= 0)
			break;
		len += (size_t)got;
		if (len > max) {
			err = KM_ETOOBIG;
			break;
		}
	}
	if (err) {
		int saved = errno;

		if (data)
			km_wipe(data, len);
		free(data);
		errno = saved;
		return err;
	}
	data[len] = '\0';
	*out = data;
	*n = len;
	return 0;
}

int km_file_read(const char *path, size_t max, char **out, size_t *n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int err;

	if (fd < 0)
		return KM_EIO;
	err = read_all(fd, max, out, n);
	close_keep_errno(fd);
	return err;
}

/* Cuts trailing white space; what is left must be one line with something in it. */
static int secret_trim(char *s, size_t n, const char *path, struct km_errtext *err)
{
	while (n && strchr(" \t\r\n", s[n - 1]) && s[n - 1])
		s[--n] = '\0';
	if (!n)
		return km_errtext_set(err, KM_EINVAL, "%s is empty", path);
	if (strlen(s) != n || strchr(s, '\n'))
		return km_errtext_set(err, KM_EINVAL, "%s must hold one line of text", path);
	return 0;
}

/* What systemd hands over (LoadCredential) lies in a folder that it guards; its access control list
 * shows as a group's right to read. */
static bool is_credential(const char *path)
{
	const char *dir = getenv("CREDENTIALS_DIRECTORY");
	size_t n = dir ? strlen(dir) : 0;

	return n && dir[0] == '/' && strncmp(path, dir, n) == 0 && path[n] == '/' &&
	       strchr(path + n + 1, '/') == NULL;
}

/* Of a file that has been opened: whether it may hold a secret. */
static int secret_check(const char *path, const struct stat *st, struct km_errtext *err)
{
	if (S_ISDIR(st->st_mode))
		return km_errtext_set(err, KM_EINVAL, "%s is a directory, but must be a file", path);
	if ((st->st_mode & 077) && ((st->st_mode & 037) || !is_credential(path)))
		return km_errtext_set(err, KM_EPERM,
				      "%s holds a secret but others may read it (mode %04o): run "
				      "chmod 600 on it",
				      path, (unsigned)st->st_mode & 07777);
	return 0;
}

int km_secret_check(const char *path, struct km_errtext *err)
{
	struct stat st;

	if (stat(path, &st))
		return km_errtext_set(err, KM_EIO, "cannot open %s: %s", path, strerror(errno));
	return secret_check(path, &st, err);
}

int km_secret_read(const char *path, size_t max, char **out, struct km_errtext *err)
{
	int fd, e = KM_EIO;
	char *s = NULL;
	struct stat st;
	size_t n = 0;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st)) {
		km_errtext_set(err, e, "cannot open %s: %s", path, strerror(errno));
		goto out;
	}
	e = secret_check(path, &st, err);
	if (e)
		goto out;
	e = read_all(fd, max, &s, &n);
	if (e == KM_ETOOBIG)
		km_errtext_set(err, e, "%s is longer than %zu bytes", path, max);
	else if (e)
		km_errtext_set(err, e, "cannot read %s: %s", path, strerror(errno));
	if (e)
		goto out;
	e = secret_trim(s, n, path, err);
	if (e)
		goto out;
	*out = s;
	s = NULL;
out:
	if (s)
		km_wipe(s, n);
	free(s);
	close_keep_errno(fd);
	return e;
}

int km_write_all(int fd, const void *bytes, size_t n)
{
	const char *p = bytes;

	while (n) {
		ssize_t put = write(fd, p, n);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return KM_EIO;
		p += put;
		n -= (size_t)put;
	}
	return 0;
}

int km_folder_sync(const char *path)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];
	int fd, err;

	if (!slash)
		snprintf(folder, sizeof(folder), ".");
	else
		snprintf(folder, sizeof(folder), "%.*s", slash == path ? 1 : (int)(slash - path),
			 path);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return KM_EIO;
	err = fsync(fd) ? KM_EIO : 0;
	close_keep_errno(fd);
	return err;
}

int km_file_write(const char *path, const void *p, size_t n, mode_t mode)
{
	char tmp[PATH_MAX];
	int fd = -1, saved;
	bool made = false;
	int err = KM_EIO;

	if ((size_t)snprintf(tmp, sizeof(tmp), "%s~XXXXXX", path) >= sizeof(tmp)) {
		errno = ENAMETOOLONG;
		return KM_EIO;
	}
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0)
		goto out;
	made = true;
	if (fchmod(fd, mode) || km_write_all(fd, p, n) || fsync(fd))
		goto out;
	if (rename(tmp, path))
		goto out;
	made = false;
	err = km_folder_sync(path);
out:
	saved = errno;
	if (fd >= 0)
		close(fd);
	if (made)
		unlink(tmp);
	errno = saved;
	return err;
}

int km_mkdirs(const char *path, mode_t mode)
{
	char part[PATH_MAX];
	size_t n = strlen(path);
	struct stat st;

	if (!n || n >= sizeof(part)) {
		errno = n ? ENAMETOOLONG : ENOENT;
		return KM_EIO;
	}
	while (n > 1 && path[n - 1] == '/')
		n--;
	for (size_t i = 1; i <= n; i++) {
		if (i < n && path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, i < n ? 0755 : mode) && errno != EEXIST)
			return KM_EIO;
	}
	if (stat(path, &st))
		return KM_EIO;
	if (!S_ISDIR(st.st_mode)) {
		errno = ENOTDIR;
		return KM_EIO;
	}
	return 0;
}
