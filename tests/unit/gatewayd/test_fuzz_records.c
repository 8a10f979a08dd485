/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_records.c"

#define CORPUS "records"
#include "tests/fuzz/replay.h"
