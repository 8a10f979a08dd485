/* SPDX-License-Identifier: MIT */
/* Included behind a fuzz target by a unit test: gives every file of tests/fuzz/corpus/CORPUS to it,
 * whole, and cut at every byte unless the fuzzer has grown it (it cuts by itself, and names a file by
 * its SHA-1). Runs in the source folder. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void replay_file(const char *path, bool cuts)
{
	size_t n;
	char *text;

	assert_int_equal(km_file_read(path, 1 << 20, &text, &n), 0);
	for (size_t cut = cuts ? 0 : n; cut <= n; cut++) {
		/* Memory of its own, so that a byte read behind the end is seen. */
		uint8_t *copy = malloc(cut ? cut : 1);

		assert_non_null(copy);
		memcpy(copy, text, cut);
		LLVMFuzzerTestOneInput(copy, cut);
		free(copy);
	}
	free(text);
}

static void replay_corpus(void **state)
{
	DIR *d = opendir("tests/fuzz/corpus/" CORPUS);
	struct dirent *e;
	int files = 0;

	(void)state;
	assert_non_null(d);
	while ((e = readdir(d))) {
		char *path;

		if (e->d_name[0] == '.')
			continue;
		path = km_xasprintf("tests/fuzz/corpus/" CORPUS "/%s", e->d_name);
		replay_file(path, strspn(e->d_name, "0123456789abcdef") != 40);
		free(path);
		files++;
	}
	closedir(d);
	assert_true(files > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(replay_corpus)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
