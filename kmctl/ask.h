/* SPDX-License-Identifier: MIT */
/* Questions on the terminal. */
#ifndef KMCTL_ASK_H
#define KMCTL_ASK_H

#include "libkm/base/err.h"
#include <stdbool.h>

enum answer { ANSWER_NO = 0, ANSWER_YES = 1 };

/* Asks on standard error and reads a line from standard input: ANSWER_YES for y or yes, ANSWER_NO
 * for n, no or nothing; asks again for anything else. KM_EUNSUPPORTED with a sentence when standard
 * input is no terminal, KM_EIO when it has ended. */
int ask(const char *question, struct km_errtext *err) __attribute__((warn_unused_result));

#endif
