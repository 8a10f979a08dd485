/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_client.c"

#define CORPUS "client"
#include "tests/fuzz/replay.h"
