/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_h1.c"

#define CORPUS "h1"
#include "tests/fuzz/replay.h"
