/* SPDX-License-Identifier: MIT */
/* Readers of single options. Each gives the stored form (a new value), JSON's null for what says
 * nothing, or NULL when d names a mistake. Only for the files options*.c. */
#ifndef CONTROLD_API_OPTIONS_PARTS_H
#define CONTROLD_API_OPTIONS_PARTS_H

#include "controld/api/input_parts.h"
#include "controld/api/options.h"

typedef json_t *option_read(const json_t *v, const char *at, struct details *d);

/* options_values.c */
option_read option_bool, option_host, option_server_name, option_ca, option_hsts,
    option_maintenance, option_rate, option_size, option_connections;
/* options_rules.c */
option_read option_headers, option_redirects;

/* Whether following the rules from where one of them leads comes to no end on this domain; then the
 * index of that one, else -1. */
int option_redirects_loop(const json_t *redirects, const char *domain);

#endif
