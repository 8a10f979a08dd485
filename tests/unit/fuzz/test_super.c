/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_super.c"

#include <string.h>

#define CORPUS "super"
#include "tests/fuzz/replay.h"
