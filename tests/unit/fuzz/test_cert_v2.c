/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_cert_v2.c"

#define CORPUS "cert_v2"
#include "tests/fuzz/replay.h"
