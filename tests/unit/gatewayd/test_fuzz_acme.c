/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_acme.c"

#define CORPUS "acme"
#include "tests/fuzz/replay.h"
