/* SPDX-License-Identifier: MIT */
/* JSON objects in the state directory: absent, damaged, unwritable. */
#include "libkm/base/util.h"
#include "libkm/host/kept.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* after the standard headers */
#include <cmocka.h>

struct folder {
	char dir[32], file[64];
};

static int setup(void **state)
{
	struct folder *f = km_xcalloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/kmkept-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	snprintf(f->file, sizeof(f->file), "%s/kept.json", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct folder *f = *state;

	unlink(f->file);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void what_is_written_is_read(void **state)
{
	const struct folder *f = *state;
	json_t *v = json_pack("{s:s, s:[i]}", "a", "1", "b", 2), *back;
	struct stat st;

	assert_true(km_kept_write(f->file, v, "things"));
	assert_int_equal(stat(f->file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	back = km_kept_read(f->file, "things");
	assert_true(json_equal(v, back));
	json_decref(back);
	json_decref(v);
}

static void what_is_not_there_is_empty(void **state)
{
	static const char *const texts[] = {"",        "[1]", "7", "{\"a\":", "{\"a\":1,\"a\":2}",
					    "\xff\xfe"};
	const struct folder *f = *state;
	json_t *v = km_kept_read(f->file, "things");

	assert_true(json_is_object(v));
	assert_int_equal(json_object_size(v), 0);
	json_decref(v);
	for (size_t i = 0; i < KM_ARRAY_LEN(texts); i++) {
		assert_int_equal(km_file_write(f->file, texts[i], strlen(texts[i]), 0600), 0);
		v = km_kept_read(f->file, "things");
		assert_true(json_is_object(v));
		assert_int_equal(json_object_size(v), 0);
		json_decref(v);
	}
}

static void what_cannot_be_written_is_said(void **state)
{
	json_t *v = json_object();

	(void)state;
	assert_false(km_kept_write("/nowhere/at/all.json", v, "things"));
	json_decref(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(what_is_written_is_read, setup, teardown),
	    cmocka_unit_test_setup_teardown(what_is_not_there_is_empty, setup, teardown),
	    cmocka_unit_test(what_cannot_be_written_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
