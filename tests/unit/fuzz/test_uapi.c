/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_uapi.c"

#include <string.h>

#define CORPUS "uapi"
#include "tests/fuzz/replay.h"
