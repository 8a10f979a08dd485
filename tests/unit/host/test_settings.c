/* SPDX-License-Identifier: MIT */
/* The settings that gatewayd and agentd share, as rows of a program's table. */
#include "libkm/base/util.h"
#include "libkm/host/settings.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct program {
	int64_t before;
	struct km_host_settings host;
	int64_t after;
};

static const struct km_opt opts[] = {
    {.key = "before", .type = KM_OPT_INT, .offset = offsetof(struct program, before), .def = "1"},
    KM_HOST_OPTS(struct program, host, "agent"),
    {.key = "wireguard_port",
     .type = KM_OPT_INT,
     .offset = offsetof(struct program, host.wireguard_port),
     .def = "7"},
    {.key = "after", .type = KM_OPT_INT, .offset = offsetof(struct program, after), .def = "2"},
    KM_HOST_OPTS_OUTPUT(struct program, host, "9999"),
};
static const struct km_conf_spec spec = {
    .program = "hostd",
    .file = "host.conf",
    .what = "A host.",
    .opts = opts,
    .n_opts = KM_ARRAY_LEN(opts),
    .size = sizeof(struct program),
};

static int load(struct program *p, const char *text, char *said, size_t size)
{
	char path[] = "/tmp/km-host-XXXXXX";
	int fd = mkstemp(path), rc;
	FILE *report = fmemopen(said, size, "w");

	assert_true(fd >= 0 && report);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	memset(p, 0, sizeof(*p));
	rc = km_conf_load(&spec, path, p, report);
	fclose(report);
	unlink(path);
	return rc;
}

static void test_rows_fill_their_members(void **state)
{
	struct program p;
	char said[512] = "";

	(void)state;
	assert_int_equal(load(&p,
			      "control = wss://a:3001 wss://b:3001\n"
			      "control_pin = sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
			      "api_key_file = /k\nstate_dir = /s\nruntime_dir = /r\n"
			      "wireguard = embedded\nnetwork = host\nwireguard_port = 99\n"
			      "warden = /w\nwarden_linger = 24h\nmetrics_listen = [::1]:1\n"
			      "log_level = debug\nlog_format = json\nbefore = 3\nafter = 4\n",
			      said, sizeof(said)),
			 0);
	assert_string_equal(said, "");
	assert_int_equal(p.before, 3);
	assert_int_equal(p.after, 4);
	assert_int_equal(p.host.control.n, 2);
	assert_string_equal(p.host.control.items[1], "wss://b:3001");
	assert_int_equal(p.host.log.format, KM_LOG_JSON);
	assert_string_equal(km_log_levels[p.host.log.level], "debug");
	assert_string_equal(p.host.metrics_listen, "[::1]:1");

	struct km_privnet_opts net = km_host_privnet_opts(&p.host);

	assert_string_equal(net.warden, "/w");
	assert_string_equal(net.runtime_dir, "/r");
	assert_string_equal(net.state_dir, "/s");
	assert_int_equal(net.wireguard, KM_WG_EMBEDDED);
	assert_true(net.host_network);
	assert_int_equal(net.listen_port, 99);
	assert_int_equal(net.linger_ms, 86400000);
	assert_int_equal(net.log_format, KM_LOG_JSON);

	struct km_uplink_opts up = km_host_uplink_opts(&p.host);

	assert_string_equal(up.state_dir, "/s");
	assert_ptr_equal(up.control, &p.host.control);
	assert_string_equal(up.pin, p.host.control_pin);
	assert_string_equal(up.api_key_file, "/k");
	km_conf_free(&spec, &p);
}

static void test_defaults(void **state)
{
	struct program p;
	char said[512] = "";

	(void)state;
	assert_int_equal(load(&p, "", said, sizeof(said)), 0);
	assert_string_equal(p.host.state_dir, "/var/lib/kakuremichi/agent");
	assert_string_equal(p.host.runtime_dir, "/run/kakuremichi/agent");
	assert_string_equal(p.host.api_key_file, KM_SYSCONF "/agent.key");
	assert_string_equal(p.host.metrics_listen, "127.0.0.1:9999");
	assert_int_equal(km_host_privnet_opts(&p.host).wireguard, KM_WG_AUTO);
	assert_false(km_host_privnet_opts(&p.host).host_network);
	assert_int_equal(p.host.warden_linger, 60000);
	assert_string_equal(km_log_levels[p.host.log.level], "info");
	km_conf_free(&spec, &p);
}

static void test_mistakes(void **state)
{
	static const char *const wrong[] = {
	    "control = http://a", "control_pin = x",  "metrics_listen = here", "wireguard = wg",
	    "network = lan",      "state_dir = here", "warden_linger = 25h",   "log_level = loud",
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(wrong); i++) {
		struct program p;
		char said[512] = "", *end;

		assert_int_equal(load(&p, wrong[i], said, sizeof(said)), KM_EINVAL);
		end = strchr(said, '\n');
		assert_non_null(end);
		assert_string_equal(end, "\n"); /* one line, about this key */
		assert_non_null(strstr(said, ":1: "));
		km_conf_free(&spec, &p);
	}
}

static void test_folders(void **state)
{
	char dir[] = "/tmp/km-host-XXXXXX", state_dir[64], runtime_dir[64];
	struct km_host_settings s = {.state_dir = state_dir, .runtime_dir = runtime_dir};
	struct km_errtext err = {0};
	struct stat st;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(state_dir, sizeof(state_dir), "%s/s", dir);
	snprintf(runtime_dir, sizeof(runtime_dir), "%s/r", dir);
	s.wireguard = KM_WG_NONE;
	assert_int_equal(km_host_folders(&s, &err), 0);
	assert_int_equal(stat(state_dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(stat(runtime_dir, &st), -1); /* there will be no warden */
	s.wireguard = KM_WG_AUTO;
	assert_int_equal(km_host_folders(&s, &err), 0);
	assert_int_equal(rmdir(runtime_dir), 0);
	assert_int_equal(rmdir(state_dir), 0);
	assert_int_equal(symlink("/dev/null", state_dir), 0);
	assert_int_equal(km_host_folders(&s, &err), KM_EIO);
	assert_non_null(strstr(err.text, state_dir));
	assert_int_equal(unlink(state_dir), 0);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rows_fill_their_members),
	    cmocka_unit_test(test_defaults),
	    cmocka_unit_test(test_mistakes),
	    cmocka_unit_test(test_folders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
