/* SPDX-License-Identifier: MIT */
/* HTTP field names and values as a tunnel's header rules may have them: control refuses others, and a
 * gateway does not take them from anybody. */
#ifndef KM_BASE_FIELD_H
#define KM_BASE_FIELD_H

#include <stdbool.h>

#define KM_FIELD_RULES_BYTES 16384 /* of all rules of one direction: names, values and 4 for each */

/* Whether s is a token (RFC 9110, 5.6.2). */
bool km_field_name_ok(const char *s);
/* Whether s is a field's value (RFC 9110, 5.5) in ASCII: no control byte but a tab, no blank at its
 * ends; may be empty. */
bool km_field_value_ok(const char *s);
/* Why no rule may set or remove the field of this name (any case, any mark in the place of '-'), fit to stand
 * after the name; NULL:
 * rules may. It frames the message, belongs to one connection (RFC 9110, 7.6.1), or says who the
 * stranger is, which the gateway answers for. */
const char *km_field_reserved(const char *name);

#endif
