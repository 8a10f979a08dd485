/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_hello.c"

#define CORPUS "hello"
#include "tests/fuzz/replay.h"
