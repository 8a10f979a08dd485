/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_journal.c"

#include <string.h>

#define CORPUS "journal"
#include "tests/fuzz/replay.h"
