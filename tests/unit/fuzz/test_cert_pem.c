/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_cert_pem.c"

#define CORPUS "cert_pem"
#include "tests/fuzz/replay.h"
