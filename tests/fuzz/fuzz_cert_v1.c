/* SPDX-License-Identifier: MIT */
/* A certificate of version 1 as it comes from the other side. */
#include "tests/fuzz/fuzz_cert.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	return fuzz_version(1, p, n);
}
