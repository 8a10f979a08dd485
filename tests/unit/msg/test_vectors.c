/* SPDX-License-Identifier: MIT */
/* proto/messages/TYPE.json must be what the code says, and proto/vectors/NAME.json must be judged
 * by the code as they say. Runs in the source folder; `--write` writes the schemas (make schemas).
 */
#include "libkm/base/util.h"
#include "libkm/msg/msg.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct {
	enum km_msg_from from;
	const char *type;
	const struct km_msg_desc *desc;
} messages[] = {
#define S(name)
#include "libkm/msg/only_s.h"
#undef M
#define M(from, type, name) {KM_MSG_FROM_##from, type, &km_msg_desc_##name},
#include "libkm/msg/messages.def"
#include "libkm/msg/undef.h"
};

/* ---- schemas ---- */

static char *schema_path(const char *type)
{
	return km_xasprintf("proto/messages/%s.json", type);
}

/* The text of the file; the caller frees it. */
static char *schema_text(size_t i)
{
	json_t *schema = km_msg_schema(messages[i].desc);
	char *text, *lines;

	assert_non_null(schema);
	json_object_set_new(schema, "title", json_string(messages[i].type));
	json_object_set_new(schema, "description",
			    json_string(messages[i].from == KM_MSG_FROM_CLIENT
					    ? "The data of a message from an agent or a gateway."
					    : "The data of a message from control."));
	text = json_dumps(schema, JSON_INDENT(2));
	assert_non_null(text);
	lines = km_xasprintf("%s\n", text);
	free(text);
	json_decref(schema);
	return lines;
}

static int write_schemas(void)
{
	int r = 0;

	for (size_t i = 0; i < KM_ARRAY_LEN(messages); i++) {
		char *path = schema_path(messages[i].type), *text = schema_text(i);

		if (km_file_write(path, text, strlen(text), 0644)) {
			perror(path);
			r = 1;
		}
		free(path);
		free(text);
	}
	return r;
}

static void schemas_are_current(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(messages); i++) {
		char *path = schema_path(messages[i].type), *text = schema_text(i), *file;
		size_t n;

		if (km_file_read(path, 1 << 20, &file, &n))
			fail_msg("%s cannot be read: run make schemas", path);
		if (strcmp(file, text))
			fail_msg("%s is not what the code says: run make schemas", path);
		free(file);
		free(path);
		free(text);
	}
}

/* ---- vectors ---- */

static json_t *load(const char *path)
{
	json_error_t why;
	json_t *v = json_load_file(path, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);

	if (!v)
		fail_msg("%s:%d: %s", path, why.line, why.text);
	return v;
}

/* Each struct of the table has fewer bytes than this. */
union any {
	max_align_t align;
	char bytes[1024];
};

static void check_valid(const struct km_msg_desc *d, const char *name, const json_t *v)
{
	const json_t *data = json_object_get(v, "data"),
		     *formatted = json_object_get(v, "formatted");
	struct km_errtext err = {""};
	union any m, copy;
	json_t *out;

	if (km_msg_parse(d, &m, data, &err))
		fail_msg("%s: %s", name, err.text);
	out = km_msg_format(d, &m);
	assert_non_null(out);
	if (!json_equal(out, formatted ? formatted : data))
		fail_msg("%s: is formatted as %s", name, json_dumps(out, JSON_COMPACT));
	assert_int_equal(km_msg_copy(d, &copy, &m), 0);
	assert_true(km_msg_equal(d, &m, &copy));
	km_msg_clear(d, &m);
	km_msg_clear(d, &copy);
	json_decref(out);
}

static void check_invalid(const struct km_msg_desc *d, const char *name, const json_t *v)
{
	const char *expected = json_string_value(json_object_get(v, "error"));
	struct km_errtext err = {""};
	union any m, zero;

	assert_non_null(expected);
	memset(&zero, 0, sizeof zero);
	memset(&m, 0, sizeof m);
	if (km_msg_parse(d, &m, json_object_get(v, "data"), &err) != KM_EINVAL)
		fail_msg("%s: was taken", name);
	if (strcmp(err.text, expected))
		fail_msg("%s: \"%s\" instead of \"%s\"", name, err.text, expected);
	assert_memory_equal(&m, &zero, sizeof m);
}

static const struct km_msg_desc *desc_of(const char *type)
{
	const struct km_msg_desc *d = km_msg_find(KM_MSG_FROM_CLIENT, type);

	return d ? d : km_msg_find(KM_MSG_FROM_CONTROL, type);
}

static void check_all(const char *path, const json_t *file, const json_t *type, bool valid)
{
	const json_t *list = json_object_get(file, valid ? "valid" : "invalid"), *v;
	const struct km_msg_desc *d = desc_of(json_string_value(type));
	size_t i;

	if (!d || !json_array_size(list))
		fail_msg("%s: unknown type, or nothing to check", path);
	json_array_foreach(list, i, v)
	{
		char *name = km_xasprintf("%s: %s: %s", path, json_string_value(type),
					  json_string_value(json_object_get(v, "name")));

		(valid ? check_valid : check_invalid)(d, name, v);
		free(name);
	}
}

static void vectors_replay(void **state)
{
	DIR *dir = opendir("proto/vectors");
	json_t *covered = json_object();
	struct dirent *e;

	(void)state;
	assert_non_null(dir);
	while ((e = readdir(dir))) {
		char *path = km_xasprintf("proto/vectors/%s", e->d_name);
		json_t *file, *type;
		size_t i;

		if (e->d_name[0] == '.') {
			free(path);
			continue;
		}
		file = load(path);
		json_array_foreach(json_object_get(file, "types"), i, type)
		{
			check_all(path, file, type, true);
			check_all(path, file, type, false);
			json_object_set(covered, json_string_value(type), type);
		}
		json_decref(file);
		free(path);
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(messages); i++) {
		if (!json_object_get(covered, messages[i].type))
			fail_msg("no vectors for %s", messages[i].type);
	}
	closedir(dir);
	json_decref(covered);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(schemas_are_current),
	    cmocka_unit_test(vectors_replay),
	};

	if (argc == 2 && !strcmp(argv[1], "--write"))
		return write_schemas();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
