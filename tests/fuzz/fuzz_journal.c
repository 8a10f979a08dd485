/* SPDX-License-Identifier: MIT */
/* The input is a journal behind a fixed snapshot: each line gets its checksum here, unless it
 * begins with '!' (then the rest goes in as it is); the last is written without a newline. The
 * replica must start with at least the snapshot, go on, and be the same when it is opened again. */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/replica/replica.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SNAPSHOT "00000000-0000-4000-8000-00000000000a"
#define ID "00000000-0000-4000-8000-000000000001"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static char dir[] = "/dev/shm/km-fuzz-XXXXXX", json_path[64], journal_path[64];

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void remove_all(void)
{
	static const char *const names[] = {"config.json", "config.journal", "config.json.broken",
					    "config.journal.broken"};
	char path[64];

	for (size_t i = 0; i < KM_ARRAY_LEN(names); i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
}

static void leave(void)
{
	remove_all();
	rmdir(dir);
}

static void begin(void)
{
	if (json_path[0])
		return;
	km_log_init("fuzz", KM_LOG_ERROR, KM_LOG_TEXT);
	must(mkdtemp(dir));
	snprintf(json_path, sizeof json_path, "%s/config.json", dir);
	snprintf(journal_path, sizeof journal_path, "%s/config.journal", dir);
	atexit(leave);
}

static void write_line(FILE *f, const char *p, size_t n, bool whole)
{
	uint8_t digest[32];
	char sum[17];

	if (n && p[0] == '!') {
		fprintf(f, "%.*s", (int)n - 1, p + 1);
	} else {
		km_sha256(digest, p, n);
		fprintf(f, "%s ", km_hex(digest, 8, sum));
		fwrite(p, 1, n, f);
	}
	if (whole)
		putc('\n', f);
}

static void write_files(const char *p, size_t n)
{
	static const char header[] = "{\"snapshot\":\"" SNAPSHOT "\"}";
	FILE *f = fopen(json_path, "w");

	must(f);
	fputs("{\"snapshot\": \"" SNAPSHOT "\", \"epoch\": \"e\", \"revision\": 1, \"agent\": "
	      "{\"id\": \"" ID "\", \"name\": \"n\", \"virtualIp\": \"10.1.0.100\", \"subnet\": "
	      "\"10.1.0.0/24\"}}",
	      f);
	must(!fclose(f));
	f = fopen(journal_path, "w");
	must(f);
	write_line(f, header, strlen(header), true);
	while (n) {
		const char *end = memchr(p, '\n', n);
		size_t len = end ? (size_t)(end - p) : n;

		write_line(f, p, len, end);
		p += len + !!end;
		n -= len + !!end;
	}
	must(!fclose(f));
}

static int64_t open_once(struct km_replica **r)
{
	struct km_errtext err;

	must(!km_replica_open(r, dir, NULL, NULL, &err));
	must(!strcmp(km_replica_epoch(*r), "e"));
	must(km_replica_revision(*r) >= 1);
	return km_replica_revision(*r);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct km_replica *r;
	struct km_errtext err;
	int64_t revision;
	json_t *gone, *ack;

	begin();
	remove_all();
	write_files((const char *)p, n);
	revision = open_once(&r);
	if (revision < INT64_MAX) {
		revision++;
		gone =
		    json_pack("{s:s, s:I, s:I, s:s}", "epoch", "e", "previous",
			      (json_int_t)revision - 1, "revision", (json_int_t)revision, "id", ID);
		must(!km_replica_take(r, "tunnel_delete", gone, &ack, &err));
		json_decref(gone);
		json_decref(ack);
	}
	km_replica_free(r);
	must(open_once(&r) == revision);
	km_replica_free(r);
	return 0;
}
