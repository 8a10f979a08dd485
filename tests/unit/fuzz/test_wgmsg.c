/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_wgmsg.c"

#include <string.h>

#define CORPUS "wgmsg"
#include "tests/fuzz/replay.h"
