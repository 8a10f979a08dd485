/* SPDX-License-Identifier: MIT */
#include "libkm/base/process.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

struct stat_line {
	uint64_t started_ticks, virtual_bytes, resident_pages;
};

static int gauge(struct km_buf *out, const char *name, const char *help, uint64_t n)
{
	return km_buf_addf(out, "# HELP %s %s\n# TYPE %s gauge\n%s %" PRIu64 "\n", name, help, name,
			   name, n);
}

/* proc(5), /proc/pid/stat: the fields behind the last ')', of which the first is the third. */
static bool stat_read(struct stat_line *s)
{
	char text[1024];
	FILE *f = fopen("/proc/self/stat", "re");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
	if (f)
		(void)fclose(f);
	text[n] = 0;
	const char *p = strrchr(text, ')');
	return p && sscanf(p + 1,
			   " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			   "%*d %*d %" SCNu64 " %" SCNu64 " %" SCNu64,
			   &s->started_ticks, &s->virtual_bytes, &s->resident_pages) == 3;
}

/* Seconds since 1970 at which the system started; 0: unknown. */
static uint64_t boot_time(void)
{
	char line[512];
	uint64_t at = 0;
	FILE *f = fopen("/proc/stat", "re");
	while (f && !at && fgets(line, sizeof(line), f))
		(void)sscanf(line, "btime %" SCNu64, &at);
	if (f)
		(void)fclose(f);
	return at;
}

/* Without the one that looks. */
static uint64_t open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	uint64_t n = 0;
	if (!d)
		return 0;
	for (const struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	(void)closedir(d);
	return n - 1;
}

static int cpu_print(struct km_buf *out)
{
	static const char name[] = "process_cpu_seconds_total";
	struct rusage r;
	if (getrusage(RUSAGE_SELF, &r))
		return 0;
	int64_t us = (int64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000 +
		     r.ru_utime.tv_usec + r.ru_stime.tv_usec;
	return km_buf_addf(out,
			   "# HELP %s Processor time, of the system too.\n# TYPE %s counter\n"
			   "%s %" PRId64 ".%06" PRId64 "\n",
			   name, name, name, us / 1000000, us % 1000000);
}

static int stat_print(struct km_buf *out, const struct stat_line *s)
{
	uint64_t boot = boot_time();
	long ticks = sysconf(_SC_CLK_TCK), page = sysconf(_SC_PAGESIZE);
	int rc = 0;
	if (boot && ticks > 0)
		rc = gauge(out, "process_start_time_seconds", "When it started, since 1970.",
			   boot + s->started_ticks / (uint64_t)ticks);
	if (!rc)
		rc = gauge(out, "process_resident_memory_bytes", "Memory in use.",
			   s->resident_pages * (uint64_t)page);
	return rc ? rc
		  : gauge(out, "process_virtual_memory_bytes", "Memory that is mapped.",
			  s->virtual_bytes);
}

int km_process_print(struct km_buf *out)
{
	struct stat_line s;
	struct rlimit limit;
	uint64_t fds = open_fds();
	int rc =
	    km_buf_addf(out,
			"# HELP kakuremichi_build_info What this is.\n"
			"# TYPE kakuremichi_build_info gauge\n"
			"kakuremichi_build_info{program=\"%s\",version=\"" KM_VERSION "\"} 1\n",
			program_invocation_short_name);
	if (!rc)
		rc = cpu_print(out);
	if (!rc && stat_read(&s))
		rc = stat_print(out, &s);
	if (!rc && fds)
		rc = gauge(out, "process_open_fds", "Open descriptors.", fds);
	if (!rc && !getrlimit(RLIMIT_NOFILE, &limit))
		rc = gauge(out, "process_max_fds", "Descriptors that may be open.", limit.rlim_cur);
	return rc;
}
