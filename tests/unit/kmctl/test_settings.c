/* SPDX-License-Identifier: MIT */
#include "kmctl/control.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PIN "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

static char dir[] = "/tmp/kmctl-settings-XXXXXX";

static void write_conf(const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/kakuremichi/kmctl.conf", dir);
	assert_int_equal(km_file_write(path, text, strlen(text), 0600), 0);
}

static int load(struct control_settings *s, int argc, const char *const *args,
		struct km_errtext *err)
{
	struct flag flags[] = {CONTROL_FLAGS};
	int rc = flags_parse(flags, KM_ARRAY_LEN(flags), argc, (char **)args, err);

	return rc ? rc : control_settings_load(s, flags, KM_ARRAY_LEN(flags), err);
}

static int setup(void **state)
{
	char path[128];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/kakuremichi", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	return setenv("XDG_CONFIG_HOME", dir, 1);
}

static int teardown(void **state)
{
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/kakuremichi/kmctl.conf", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/kakuremichi", dir);
	rmdir(path);
	return rmdir(dir);
}

static void options_stand_above_environment_and_file(void **state)
{
	const char *const pin[] = {"-pin", PIN, "-control=https://option:1"};
	struct control_settings s;
	struct km_errtext err = {""};

	(void)state;
	assert_int_equal(load(&s, 0, NULL, &err), 0); /* no file: nothing is known */
	assert_null(s.control);
	control_settings_free(&s);
	write_conf("control = https://file:1\nca_file = /root.crt\ntoken_file = /token\n");
	assert_int_equal(load(&s, 0, NULL, &err), 0);
	assert_string_equal(s.control, "https://file:1");
	control_settings_free(&s);
	setenv("KAKUREMICHI_CONTROL", "https://environment:1", 1);
	assert_int_equal(load(&s, 0, NULL, &err), 0);
	assert_string_equal(s.control, "https://environment:1");
	assert_string_equal(s.ca_file, "/root.crt");
	control_settings_free(&s);
	assert_int_equal(load(&s, 3, pin, &err), 0);
	assert_string_equal(s.control, "https://option:1");
	assert_string_equal(s.pin, PIN);
	assert_null(s.ca_file); /* the option takes its place */
	assert_string_equal(s.token_file, "/token");
	control_settings_free(&s);
	unsetenv("KAKUREMICHI_CONTROL");
}

static void mistakes_are_named(void **state)
{
	static const struct {
		const char *conf, *option, *value, *says;
	} cases[] = {
	    {"contrl = https://x\n", NULL, NULL, "contrl"},
	    {"control = http://x:3000\n", NULL, NULL, "https://"},
	    {"control = https://user@x\n", NULL, NULL, "https://"},
	    {"pin = sha256//x\n", NULL, NULL, "pin"},
	    {"ca_file = root.crt\n", NULL, NULL, "ca_file"},
	    {"ca_file = /root.crt\npin = " PIN "\n", NULL, NULL, "one of them"},
	    {"", "-control", "control.example.org", "https://"},
	    {"", "-control", "https:///x", "https://"},
	    {"", "-pin", "nonsense", "-pin"},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		const char *const args[] = {cases[i].option, cases[i].value};
		struct control_settings s;
		struct km_errtext err = {""};

		write_conf(cases[i].conf);
		if (load(&s, cases[i].option ? 2 : 0, args, &err) != KM_EINVAL)
			fail_msg("%s%s was taken", cases[i].conf, cases[i].value);
		if (!strstr(err.text, cases[i].says))
			fail_msg("%s%s: %s", cases[i].conf, cases[i].value, err.text);
		control_settings_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(options_stand_above_environment_and_file),
	    cmocka_unit_test(mistakes_are_named),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
