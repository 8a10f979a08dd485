/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_path.c"

#define CORPUS "path"
#include "tests/fuzz/replay.h"
