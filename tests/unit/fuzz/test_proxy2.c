/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_proxy2.c"

#include <string.h>

#define CORPUS "proxy2"
#include "tests/fuzz/replay.h"
