/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_msg.c"

#include <string.h>

#define CORPUS "msg"
#include "tests/fuzz/replay.h"
