/* SPDX-License-Identifier: MIT */
/* Small plain things: time, randomness, encodings, digests, files. */
#ifndef KM_BASE_UTIL_H
#define KM_BASE_UTIL_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define KM_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Monotonic and wall-clock time in milliseconds. */
int64_t km_now_ms(void);
int64_t km_wall_ms(void);
/* "2026-11-21T07:02:13.123Z" and back (fraction optional, 'Z' or offset required). KM_EINVAL. */
#define KM_ISO8601_LEN 25
char *km_iso8601(int64_t wall_ms, char out[static KM_ISO8601_LEN]);
int km_iso8601_parse(int64_t *wall_ms, const char *s) __attribute__((warn_unused_result));

/* Bytes from getrandom(2); aborts the process if the kernel cannot give them. */
void km_random(void *p, size_t n);
/* Uniform in [0, n); 0 for n < 2. */
uint32_t km_random_below(uint32_t n);

/* A random (version 4) UUID as text; and whether s is a UUID in canonical lower-case text. */
#define KM_UUID_STRLEN 37
char *km_uuid_new(char out[static KM_UUID_STRLEN]);
bool km_uuid_ok(const char *s);
/* Text to 16 bytes and back. KM_EINVAL. */
int km_uuid_parse(uint8_t out[static 16], const char *s) __attribute__((warn_unused_result));
char *km_uuid_str(const uint8_t id[static 16], char out[static KM_UUID_STRLEN]);

/* Lower-case hex; out has 2n+1 bytes. Decoding wants exactly n bytes: KM_EINVAL otherwise. */
char *km_hex(const void *p, size_t n, char *out);
int km_unhex(void *out, size_t n, const char *s) __attribute__((warn_unused_result));
/* Base64 (RFC 4648 section 4, padded) and base64url (section 5, unpadded). out needs
 * KM_B64_LEN(n) bytes. Decoding wants canonical text of exactly n bytes: KM_EINVAL otherwise. */
#define KM_B64_LEN(n) (((n) + 2) / 3 * 4 + 1)
char *km_b64(const void *p, size_t n, char *out);
int km_unb64(void *out, size_t n, const char *s) __attribute__((warn_unused_result));
char *km_b64url(const void *p, size_t n, char *out);

/* Writes n in decimal, at most 20 digits and no NUL; returns what follows them. */
char *km_put_u64(char *p, uint64_t n);

/* The length of the UTF-8 sequence (RFC 3629) at the start of a NUL-terminated text: 1 to 4 (1 for the
 * NUL too), or 0 when there is none. */
size_t km_utf8_len(const char *s);

/* SHA-256. */
void km_sha256(uint8_t out[static 32], const void *p, size_t n);
/* Equality in constant time. */
bool km_secret_eq(const void *a, const void *b, size_t n);
/* Overwrites memory in a way that the compiler keeps. */
void km_wipe(void *p, size_t n);

/* strdup/asprintf that abort when there is no memory: for start-up and small control-path strings. */
char *km_xstrdup(const char *s);
void *km_xcalloc(size_t n, size_t size);
char *km_xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Reads a whole file of at most max bytes into *out (malloc'd, NUL-terminated after *n bytes; the
 * caller frees). KM_EIO (errno, also for a missing file: ENOENT), KM_ETOOBIG, KM_ENOMEM. */
int km_file_read(const char *path, size_t max, char **out, size_t *n)
    __attribute__((warn_unused_result));
/* The same for a secret: one line, trailing white space cut; refuses a file that group or others
 * may use (KM_EPERM; but systemd's credentials, in $CREDENTIALS_DIRECTORY, may look readable by a
 * group), a folder, and one with nothing or several lines in it (KM_EINVAL). Every error has a
 * sentence. The caller wipes and frees *out. */
int km_secret_read(const char *path, size_t max, char **out, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Whether path is a file that only its owner may use, as km_secret_read demands. KM_EIO, KM_EPERM, KM_EINVAL,
 * each with a sentence. */
int km_secret_check(const char *path, struct km_errtext *err) __attribute__((warn_unused_result));
/* Writes all n bytes, however many calls it takes. KM_EIO with errno. */
int km_write_all(int fd, const void *p, size_t n) __attribute__((warn_unused_result));
/* Makes durable what was made, renamed or removed in the folder of path. KM_EIO with errno. */
int km_folder_sync(const char *path) __attribute__((warn_unused_result));
/* Replaces a file durably: temporary file beside it, write, fsync, rename, fsync of the folder.
 * KM_EIO with errno; the old content then stands (the new one if only the folder's fsync failed).
 * A symbolic link at path is replaced, not followed. */
int km_file_write(const char *path, const void *p, size_t n, mode_t mode)
    __attribute__((warn_unused_result));
/* Makes a folder with this mode, and its missing parents, which others may pass through: 0755 (all
 * less the umask). One that is there keeps its mode. KM_EIO with errno. */
int km_mkdirs(const char *path, mode_t mode) __attribute__((warn_unused_result));

#endif
