/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_h2.c"

#define CORPUS "h2"
#include "tests/fuzz/replay.h"
