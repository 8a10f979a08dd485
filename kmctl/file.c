/* SPDX-License-Identifier: MIT */
#include "kmctl/file.h"
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_is_std(const char *path)
{
	return !strcmp(path, "-");
}

static int read_stdin(size_t max, char **out, size_t *n)
{
	struct km_buf b;
	uint8_t *to;
	ssize_t got;
	int rc;

	km_buf_init(&b, max + 1);
	for (;;) {
		rc = km_buf_reserve(&b, 1, &to);
		if (rc)
			break;
		got = read(STDIN_FILENO, to, b.cap - b.off - b.len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			rc = got ? KM_EIO : 0;
			break;
		}
		km_buf_commit(&b, (size_t)got);
	}
	*out = rc ? NULL : strndup(b.len ? (char *)km_buf_head(&b) : "", b.len);
	*n = b.len;
	if (!rc && !*out)
		rc = KM_ENOMEM;
	if (!rc && strlen(*out) != *n) {
		free(*out); /* a NUL: no text */
		*out = NULL;
		rc = KM_EINVAL;
	}
	km_buf_wipe(&b);
	return rc;
}

int file_read(const char *path, size_t max, char **out, size_t *n, struct km_errtext *err)
{
	int rc = file_is_std(path) ? read_stdin(max, out, n) : km_file_read(path, max, out, n);

	if (!rc)
		return 0;
	return km_errtext_set(err, rc, "open %s: %s", path,
			      km_why(rc));
}

bool file_exists(const char *path)
{
	struct stat st;

	return !file_is_std(path) && !lstat(path, &st);
}

bool file_is_open_to_others(const char *path)
{
	struct stat st;

	return !file_is_std(path) && !stat(path, &st) && S_ISREG(st.st_mode) &&
	       (st.st_mode & (S_IRWXG | S_IRWXO));
}

int file_write_new(const char *path, const void *p, size_t n, struct km_errtext *err)
{
	bool std = file_is_std(path);
	int fd = std ? STDOUT_FILENO
		     : open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int rc, saved;

	if (fd < 0)
		return km_errtext_set(err, errno == EEXIST ? KM_EEXIST : KM_EIO, "open %s: %s",
				      path, strerror(errno));
	rc = km_write_all(fd, p, n);
	if (!rc && !std && fsync(fd))
		rc = KM_EIO;
	saved = errno;
	if (!std && close(fd) && !rc) {
		saved = errno;
		rc = KM_EIO;
	}
	if (!rc)
		return 0;
	if (!std)
		unlink(path);
	return km_errtext_set(err, rc, "write %s: %s", path, strerror(saved));
}
