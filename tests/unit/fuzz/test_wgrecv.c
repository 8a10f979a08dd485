/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_wgrecv.c"

#include <string.h>

#define CORPUS "wgrecv"
#include "tests/fuzz/replay.h"
