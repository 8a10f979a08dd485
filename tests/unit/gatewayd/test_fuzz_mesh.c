/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/fuzz_mesh.c"

#define CORPUS "mesh"
#include "tests/fuzz/replay.h"
