/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_cert_key.c"

#define CORPUS "cert_key"
#include "tests/fuzz/replay.h"
