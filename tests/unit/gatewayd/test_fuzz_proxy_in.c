/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_proxy_in.c"

#define CORPUS "proxy_in"
#include "tests/fuzz/replay.h"
