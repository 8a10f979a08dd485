/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/conf.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct settings {
	char *name, *dir;
	int64_t port, wait, size;
	bool on;
	int mode;
	struct km_strlist hosts;
	int64_t shift;
};

static const char *no_spaces(const char *v)
{
	return strchr(v, '!') ? "an exclamation mark is not allowed" : NULL;
}

static const char *const modes[] = {"auto", "kernel", "none", NULL};

static const struct km_opt opts[] = {
    {.key = "name", .type = KM_OPT_STRING, .offset = offsetof(struct settings, name),
     .help = "The name.", .check = no_spaces},
    {.key = "state_dir", .type = KM_OPT_PATH, .offset = offsetof(struct settings, dir),
     .def = "/var/lib/x", .help = ".Nm is \\fBplain\\fP text here. 'And so is this."},
    {.key = "port", .type = KM_OPT_INT, .offset = offsetof(struct settings, port), .def = "51820",
     .help = "The port.", .min = 1, .max = 65535},
    {.key = "connect_timeout", .type = KM_OPT_DURATION, .offset = offsetof(struct settings, wait),
     .def = "5s", .help = "How long to wait.", .min = 100, .max = 60000},
    {.key = "size", .type = KM_OPT_SIZE, .offset = offsetof(struct settings, size), .def = "64K",
     .help = "How much."},
    {.key = "on", .type = KM_OPT_BOOL, .offset = offsetof(struct settings, on), .def = "yes",
     .help = "Whether."},
    {.key = "mode", .type = KM_OPT_ENUM, .offset = offsetof(struct settings, mode), .def = "auto",
     .help = "Which.", .choices = modes},
    {.key = "hosts", .type = KM_OPT_LIST, .offset = offsetof(struct settings, hosts),
     .def = "localhost ::1", .help = "Which ones.", .check = no_spaces},
    {.key = "shift", .type = KM_OPT_INT, .offset = offsetof(struct settings, shift), .def = "0",
     .help = "From where.", .min = -10, .max = 10},
};

static const struct km_opt required_opts[] = {
    {.key = "name", .type = KM_OPT_STRING, .offset = offsetof(struct settings, name),
     .help = "The name.", .required = true},
    {.key = "hosts", .type = KM_OPT_LIST, .offset = offsetof(struct settings, hosts),
     .help = "Hosts.", .required = true},
    {.key = "port", .type = KM_OPT_INT, .offset = offsetof(struct settings, port),
     .help = "The port.", .required = true},
};

static const struct km_conf_spec spec = {
    "testd", "test.conf", "A daemon that is tested. It has settings.",
    opts, KM_ARRAY_LEN(opts), sizeof(struct settings),
};
static const struct km_conf_spec required_spec = {
    "testd", "test.conf", "A daemon.", required_opts, KM_ARRAY_LEN(required_opts),
    sizeof(struct settings),
};

#define FILE_NAME "test.conf"

static int enter_folder(void **state)
{
	char name[] = "/tmp/km-test-XXXXXX";

	if (!mkdtemp(name) || chdir(name))
		return -1;
	*state = strdup(name);
	return 0;
}

static int leave_folder(void **state)
{
	int err;

	unlink(FILE_NAME);
	err = chdir("/") || rmdir(*state);
	free(*state);
	return err;
}

/* Loads `n` bytes of text; *report is to be freed. */
static int load(const struct km_conf_spec *what, const char *text, size_t n, struct settings *s,
		char **report)
{
	size_t size;
	FILE *f = open_memstream(report, &size);
	int err;

	assert_int_equal(km_file_write(FILE_NAME, text, n, 0600), 0);
	memset(s, 0, sizeof(*s));
	err = km_conf_load(what, FILE_NAME, s, f);
	fclose(f);
	return err;
}

static void assert_mistake(const char *text, const char *report)
{
	struct settings s;
	char *said;
	int err = load(&spec, text, strlen(text), &s, &said);

	if (err != KM_EINVAL || strcmp(said, report) != 0)
		fail_msg("\"%s\" gave %d and\n%s, expected\n%s", text, err, said, report);
	free(said);
	km_conf_free(&spec, &s);
}

static void assert_valid(const char *text, struct settings *s)
{
	char *said;
	int err = load(&spec, text, strlen(text), s, &said);

	if (err || *said)
		fail_msg("\"%s\" gave %d and\n%s", text, err, said);
	free(said);
}

static void assert_list(const struct km_strlist *l, const char *joined)
{
	char text[256] = "";

	for (size_t i = 0; i < l->n; i++) {
		strcat(text, i ? "|" : "");
		strcat(text, l->items[i]);
	}
	assert_string_equal(text, joined);
}

static void defaults(void **state)
{
	struct settings s = {0};

	(void)state;
	assert_int_equal(km_conf_load(&spec, NULL, &s, stderr), 0);
	assert_null(s.name);
	assert_string_equal(s.dir, "/var/lib/x");
	assert_int_equal(s.port, 51820);
	assert_int_equal(s.wait, 5000);
	assert_int_equal(s.size, 65536);
	assert_true(s.on);
	assert_int_equal(s.mode, 0);
	assert_list(&s.hosts, "localhost|::1");
	assert_int_equal(s.shift, 0);
	km_conf_free(&spec, &s);
	km_conf_free(&spec, &s);
	memset(&s, 0, sizeof(s));
	km_conf_free(&spec, &s);
}

static void every_type(void **state)
{
	struct settings s;

	(void)state;
	assert_valid("\xef\xbb\xbf# comment\n; another\n\n"
		     "name = a b=c # no comment ; a comment\r\n"
		     "state_dir=/srv/x\n"
		     "port : 1\n"
		     "connect_timeout = 100ms\n"
		     "size = 2G\n"
		     "on = OFF\n"
		     "mode = none\n"
		     "shift = -10\n"
		     "hosts = a, b\tc,,\n"
		     "\td e\n"
		     "        # a comment in between\n"
		     "\n"
		     "  f",
		     &s);
	assert_string_equal(s.name, "a b=c # no comment");
	assert_string_equal(s.dir, "/srv/x");
	assert_int_equal(s.port, 1);
	assert_int_equal(s.wait, 100);
	assert_true(s.size == 2LL << 30);
	assert_false(s.on);
	assert_int_equal(s.mode, 2);
	assert_int_equal(s.shift, -10);
	assert_list(&s.hosts, "a|b|c|d|e|f");
	km_conf_free(&spec, &s);
}

static void empty_unsets(void **state)
{
	struct settings s;

	(void)state;
	assert_valid("name =\nstate_dir =\nhosts =\n", &s);
	assert_null(s.name);
	assert_null(s.dir);
	assert_int_equal(s.hosts.n, 0);
	km_conf_free(&spec, &s);
	assert_mistake("port =\n", "test.conf:1: port: the value is empty\n");
}

static void mistakes(void **state)
{
	static const struct {
		const char *text, *report;
	} table[] = {
	    {"nmae = x\n", "test.conf:1: unknown key \"nmae\"; did you mean \"name\"?\n"},
	    {"Name = x\n", "test.conf:1: unknown key \"Name\"; did you mean \"name\"?\n"},
	    {"connect_time_out = 5s\n",
	     "test.conf:1: unknown key \"connect_time_out\"; did you mean \"connect_timeout\"?\n"},
	    {"bananas = 5\n", "test.conf:1: unknown key \"bananas\"\n"},
	    {"bananas = 5\n\tmore\n", "test.conf:1: unknown key \"bananas\"\n"},
	    {"port = 1\n\nport = 2\n", "test.conf:3: port is given twice; line 1 has it already\n"},
	    {"port = 0\n", "test.conf:1: port: 0 is outside 1 to 65535\n"},
	    {"port = 65536\n", "test.conf:1: port: 65536 is outside 1 to 65535\n"},
	    {"port = 99999999999999999999\n",
	     "test.conf:1: port: \"99999999999999999999\" is not a whole number\n"},
	    {"port = 0x10\n", "test.conf:1: port: \"0x10\" is not a whole number\n"},
	    {"port = 1 2\n", "test.conf:1: port: \"1 2\" is not a whole number\n"},
	    {"shift = -11\n", "test.conf:1: shift: -11 is outside -10 to 10\n"},
	    {"connect_timeout = 5\n", "test.conf:1: connect_timeout: \"5\" is not a duration such "
				      "as 500ms, 30s, 5m, 2h or 30d\n"},
	    {"connect_timeout = 2h\n",
	     "test.conf:1: connect_timeout: 2h is outside 100ms to 1m\n"},
	    {"size = 5T\n",
	     "test.conf:1: size: \"5T\" is not a size such as 65536, 64K, 1M or 2G\n"},
	    {"size = -1\n",
	     "test.conf:1: size: \"-1\" is not a size such as 65536, 64K, 1M or 2G\n"},
	    {"on = maybe\n", "test.conf:1: on: \"maybe\" is neither on nor off\n"},
	    {"mode = Auto\n",
	     "test.conf:1: mode: \"Auto\" is not one of auto, kernel, none\n"},
	    {"state_dir = x/y\n", "test.conf:1: state_dir: \"x/y\" is not an absolute path (it "
				  "must begin with /)\n"},
	    {"name = x!\n", "test.conf:1: name: \"x!\": an exclamation mark is not allowed\n"},
	    {"hosts = a b! c\n", "test.conf:1: hosts: \"b!\": an exclamation mark is not allowed\n"},
	    {"hosts = a\n b!\n", "test.conf:2: hosts: \"b!\": an exclamation mark is not allowed\n"},
	    {"\nname\n", "test.conf:2: not \"key = value\": \"name\"\n"},
	    {"name = x\n  y\n", "test.conf:2: an indented line goes on with the one above, but "
				"name takes one value\n"},
	    {"[main]\nname = x\n", "test.conf:1: sections are not used here: \"[main]\"\n"},
	    {"nmae = x\nport = z\n[a]\nfoo\n",
	     "test.conf:1: unknown key \"nmae\"; did you mean \"name\"?\n"
	     "test.conf:2: port: \"z\" is not a whole number\n"
	     "test.conf:3: sections are not used here: \"[a]\"\n"
	     "test.conf:4: not \"key = value\": \"foo\"\n"},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++)
		assert_mistake(table[i].text, table[i].report);
}

/* libinih would split a line that is longer than its buffer into two. */
static void long_lines(void **state)
{
	char text[400] = "name = ";
	struct settings s;

	(void)state;
	for (size_t n = 197; n <= 201; n++) {
		memset(text + 7, 'x', sizeof(text) - 7);
		strcpy(text + n, "\nport = 7\n");
		if (n <= 199) {
			assert_valid(text, &s);
			assert_int_equal(strlen(s.name), n - 7);
			assert_int_equal(s.port, 7);
			km_conf_free(&spec, &s);
		} else {
			char report[200];

			snprintf(report, sizeof(report),
				 "test.conf:1: the line has %zu bytes, more than 199; a list may "
				 "go on in an indented line\n",
				 n);
			assert_mistake(text, report);
		}
	}
}

static void nul_bytes(void **state)
{
	static const char text[] = "name = a\0b\nport = 7\n";
	struct settings s;
	char *said;

	(void)state;
	assert_int_equal(load(&spec, text, sizeof(text) - 1, &s, &said), KM_EINVAL);
	assert_string_equal(said, "test.conf:1: the line has a NUL byte\n");
	assert_int_equal(s.port, 7);
	free(said);
	km_conf_free(&spec, &s);
}

static void required(void **state)
{
	struct settings s;
	char *said;

	(void)state;
	assert_int_equal(load(&required_spec, "hosts = ,\n", 10, &s, &said), KM_EINVAL);
	assert_string_equal(said,
			    "test.conf: name is required (there or in $KAKUREMICHI_NAME)\n"
			    "test.conf: hosts is required (there or in $KAKUREMICHI_HOSTS)\n"
			    "test.conf: port is required (there or in $KAKUREMICHI_PORT)\n");
	free(said);
	km_conf_free(&required_spec, &s);
	setenv("KAKUREMICHI_NAME", "x", 1);
	setenv("KAKUREMICHI_HOSTS", "x", 1);
	assert_int_equal(load(&required_spec, "port = 0\n", 9, &s, &said), 0);
	free(said);
	km_conf_free(&required_spec, &s);
	assert_int_equal(load(&required_spec, "port = x\n", 9, &s, &said), KM_EINVAL);
	assert_string_equal(said, "test.conf:1: port: \"x\" is not a whole number\n");
	free(said);
	km_conf_free(&required_spec, &s);
	unsetenv("KAKUREMICHI_NAME");
	unsetenv("KAKUREMICHI_HOSTS");
}

static void environment(void **state)
{
	static const char text[] = "port = 1\nhosts = a b\nname = file\n";
	struct settings s;
	char *said;

	(void)state;
	setenv("KAKUREMICHI_PORT", "2", 1);
	setenv("KAKUREMICHI_HOSTS", "c", 1);
	setenv("KAKUREMICHI_CONNECT_TIMEOUT", "7s", 1);
	assert_valid(text, &s);
	assert_int_equal(s.port, 2);
	assert_list(&s.hosts, "c");
	assert_int_equal(s.wait, 7000);
	assert_string_equal(s.name, "file");
	km_conf_free(&spec, &s);
	setenv("KAKUREMICHI_PORT", "no", 1);
	setenv("KAKUREMICHI_NAME", "!", 1);
	assert_int_equal(load(&spec, text, sizeof(text) - 1, &s, &said), KM_EINVAL);
	assert_string_equal(said,
			    "$KAKUREMICHI_NAME: name: \"!\": an exclamation mark is not allowed\n"
			    "$KAKUREMICHI_PORT: port: \"no\" is not a whole number\n");
	assert_int_equal(s.port, 1);
	free(said);
	km_conf_free(&spec, &s);
	unsetenv("KAKUREMICHI_PORT");
	unsetenv("KAKUREMICHI_HOSTS");
	unsetenv("KAKUREMICHI_CONNECT_TIMEOUT");
	unsetenv("KAKUREMICHI_NAME");
}

static void unreadable_file(void **state)
{
	static const struct {
		const char *path, *report;
	} table[] = {
	    {"absent.conf", "absent.conf: cannot open: No such file or directory\n"},
	    {"/", "/: cannot read: Is a directory\n"},
	};
	struct settings s;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		size_t size;
		char *said;
		FILE *f = open_memstream(&said, &size);

		memset(&s, 0, sizeof(s));
		assert_int_equal(km_conf_load(&spec, table[i].path, &s, f), KM_EIO);
		fclose(f);
		assert_string_equal(said, table[i].report);
		free(said);
		km_conf_free(&spec, &s);
	}
}

static void durations_and_sizes(void **state)
{
	static const struct {
		const char *text;
		int64_t ms, bytes; /* -1: refused */
	} table[] = {
	    {"0", 0, 0},
	    {"500ms", 500, -1},
	    {"30s", 30000, -1},
	    {"5m", 300000, 5242880},
	    {"2h", 7200000, -1},
	    {"30d", 2592000000, -1},
	    {"65536", -1, 65536},
	    {"64K", -1, 65536},
	    {"1M", -1, 1048576},
	    {"8589934591G", -1, 9223372035781033984},
	    {"8589934592G", -1, -1},
	    {"9223372036854775807", -1, INT64_MAX},
	    {"9223372036854775808", -1, -1},
	    {"106751991168d", -1, -1},
	    {"1.5s", -1, -1},
	    {"1 s", -1, -1},
	    {"-1s", -1, -1},
	    {"s", -1, -1},
	    {"K", -1, -1},
	    {"", -1, -1},
	    {"1k", -1, 1024},
	    {"2g", -1, 2147483648},
	    {"5M", -1, 5242880},
	    {"5S", -1, -1},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		int64_t v = -1;

		assert_int_equal(km_duration_parse(&v, table[i].text),
				 table[i].ms < 0 ? KM_EINVAL : 0);
		assert_true(table[i].ms < 0 || v == table[i].ms);
		assert_int_equal(km_size_parse(&v, table[i].text),
				 table[i].bytes < 0 ? KM_EINVAL : 0);
		assert_true(table[i].bytes < 0 || v == table[i].bytes);
	}
}

static char *document(void (*write)(const struct km_conf_spec *, FILE *),
		      const struct km_conf_spec *what)
{
	char *text;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	write(what, f);
	fclose(f);
	return text;
}

/* The sample is a valid file that says what the defaults say. */
static void sample(void **state)
{
	char *text = document(km_conf_sample, &spec), *in, *out;
	struct settings s;

	(void)state;
	for (char *line = text, *end; *line; line = end + 1) {
		end = strchr(line, '\n');
		assert_true(end - line <= 80);
	}
	assert_valid(text, &s);
	km_conf_free(&spec, &s);
	/* Uncomment the settings: still valid, for every default is. */
	for (in = out = text; *in; in++)
		if (!(*in == '#' && in[1] != ' ' && (in == text || in[-1] == '\n')))
			*out++ = *in;
	*out = '\0';
	assert_non_null(strstr(text, "\n# (duration, 100ms to 1m)\nconnect_timeout = 5s\n"));
	assert_valid(text, &s);
	assert_list(&s.hosts, "localhost|::1");
	km_conf_free(&spec, &s);
	free(text);
	text = document(km_conf_sample, &required_spec);
	assert_non_null(strstr(text, "(text; required)\nname =\n"));
	free(text);
}

static void manual(void **state)
{
	char *text = document(km_conf_man, &spec);
	FILE *lint;

	(void)state;
	assert_non_null(strstr(text, ".Dt TEST.CONF 5\n"));
	assert_non_null(strstr(text, "\n\\&.Nm is \\efBplain\\efP text here.\n\\&'And so is this.\n"));
	for (size_t i = 0; i < KM_ARRAY_LEN(opts); i++)
		assert_non_null(strstr(text, opts[i].key));
	if (!access("/usr/bin/mandoc", X_OK)) {
		lint = popen("/usr/bin/mandoc -T lint -W warning >&2", "w");
		assert_non_null(lint);
		fputs(text, lint);
		assert_int_equal(pclose(lint), 0);
	}
	free(text);
}

static void program_options(void **state)
{
	static const struct {
		const char *args[4];
		int status;
	} table[] = {
	    {{"testd"}, KM_PROGRAM_RUN},
	    {{"testd", "-c", FILE_NAME, "-v"}, KM_PROGRAM_RUN},
	    {{"testd", "-t", "-c", FILE_NAME}, 0},
	    {{"testd", "-c", "absent"}, 2},
	    {{"testd", "-t", "-c", "absent"}, 2},
	    {{"testd", "-V"}, 0},
	    {{"testd", "-h"}, 0},
	    {{"testd", "--sample"}, 0},
	    {{"testd", "--man"}, 0},
	    {{"testd", "-x"}, 2},
	    {{"testd", "-c"}, 2},
	    {{"testd", "extra"}, 2},
	};

	(void)state;
	assert_int_equal(km_file_write(FILE_NAME, "port = 9\n", 9, 0600), 0);
	fflush(stdout);
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		struct settings s = {0};
		char *argv[5] = {0};
		bool verbose;
		int argc = 0;

		for (; argc < 4 && table[i].args[argc]; argc++)
			argv[argc] = strdup(table[i].args[argc]);
		assert_int_equal(km_program_start(&spec, argc, argv, &s, &verbose),
				 table[i].status);
		assert_int_equal(verbose, argc == 4 && !strcmp(argv[3], "-v"));
		if (table[i].status == KM_PROGRAM_RUN)
			assert_int_equal(s.port, argc > 2 ? 9 : 51820);
		else
			assert_null(s.dir);
		km_conf_free(&spec, &s);
		while (argc)
			free(argv[--argc]);
	}
}

#define in_folder(f) cmocka_unit_test_setup_teardown(f, enter_folder, leave_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    in_folder(defaults),	    in_folder(every_type),
	    in_folder(empty_unsets),	    in_folder(mistakes),
	    in_folder(long_lines),	    in_folder(nul_bytes),
	    in_folder(required),	    in_folder(environment),
	    in_folder(unreadable_file),	    cmocka_unit_test(durations_and_sizes),
	    in_folder(sample),		    cmocka_unit_test(manual),
	    in_folder(program_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
