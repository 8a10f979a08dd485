/* SPDX-License-Identifier: MIT */
/* libsodium's generator gives the same numbers in every run, so that a find can be found again. */
#ifndef KM_TESTS_FUZZ_TOLD_H
#define KM_TESTS_FUZZ_TOLD_H

#include <sodium.h>
#include <stdint.h>

static uint64_t told_state;

static const char *told_name(void)
{
	return "told";
}

static uint32_t told_random(void) /* splitmix64 */
{
	uint64_t z = told_state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (uint32_t)(z >> 32);
}

static void told_buf(void *p, size_t n)
{
	for (uint8_t *b = p; n > 0; n--)
		*b++ = (uint8_t)told_random();
}

/* To be called at the beginning of each run. */
static inline void told_begin(void)
{
	static randombytes_implementation told = {
	    .implementation_name = told_name, .random = told_random, .buf = told_buf};

	randombytes_set_implementation(&told);
	told_state = 1;
}

#endif
