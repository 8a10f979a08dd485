/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_dns.c"

#define CORPUS "dns"
#include "tests/fuzz/replay.h"
