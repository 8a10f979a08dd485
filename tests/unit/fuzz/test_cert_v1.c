/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_cert_v1.c"

#define CORPUS "cert_v1"
#include "tests/fuzz/replay.h"
