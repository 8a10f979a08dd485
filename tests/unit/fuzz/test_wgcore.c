/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_wgcore.c"

#include <string.h>

#define CORPUS "wgcore"
#include "tests/fuzz/replay.h"
