/* SPDX-License-Identifier: MIT */
/* JSON Schema 2020-12 of the messages. An optional field may also be null. maxLength counts
 * characters where the code counts bytes: a schema cannot say it better. */
#include "libkm/msg/desc.h"

#include "libkm/base/util.h"
#include <stdio.h>
#include <string.h>

static json_t *object_schema(const struct km_msg_desc *d, json_t *defs);

static json_t *pattern(const char *regex)
{
	return json_pack("{s:s, s:s}", "type", "string", "pattern", regex);
}

static json_t *enum_schema(const char *choices)
{
	json_t *list = json_array();
	size_t len;

	for (const char *c = choices; list; c += len + 1) {
		len = strcspn(c, "|");
		if (json_array_append_new(list, json_stringn(c, len))) {
			json_decref(list);
			return NULL;
		}
		if (!c[len])
			break;
	}
	return json_pack("{s:s, s:o}", "type", "string", "enum", list);
}

/* {"$ref": "#/$defs/NAME"}, having added that definition. */
static json_t *ref_schema(const struct km_msg_desc *d, json_t *defs)
{
	char ref[96];

	if (!json_object_get(defs, d->name) &&
	    json_object_set_new(defs, d->name, object_schema(d, defs)))
		return NULL;
	snprintf(ref, sizeof ref, "#/$defs/%s", d->name);
	return json_pack("{s:s}", "$ref", ref);
}

static json_t *field_schema(const struct field *f, json_t *defs)
{
	switch (f->kind) {
	case KIND_STR:
		return json_pack("{s:s, s:I}", "type", "string", "maxLength", (json_int_t)f->max);
	case KIND_UUID:
		return pattern("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$");
	case KIND_KEY:
		return pattern("^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$");
	case KIND_TIME:
		return json_pack("{s:s, s:s}", "type", "string", "format", "date-time");
	case KIND_PREFIX:
		return pattern("^[0-9A-Fa-f:.]+/[0-9]{1,3}$");
	case KIND_ADDR:
		return json_pack("{s:s, s:[{s:s}, {s:s}]}", "type", "string", "anyOf", "format",
				 "ipv4", "format", "ipv6");
	case KIND_ENUM:
		return enum_schema(f->choices);
	case KIND_INT:
		return json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum",
				 (json_int_t)f->min, "maximum", (json_int_t)f->max);
	case KIND_BOOL:
		return json_pack("{s:s}", "type", "boolean");
	case KIND_STRS:
		return json_pack("{s:s, s:I, s:{s:s, s:I}}", "type", "array", "maxItems",
				 (json_int_t)f->max_n, "items", "type", "string", "maxLength",
				 (json_int_t)f->max);
	case KIND_OBJ:
		return ref_schema(f->sub, defs);
	case KIND_OBJS:
		return json_pack("{s:s, s:I, s:o}", "type", "array", "maxItems",
				 (json_int_t)f->max_n, "items", ref_schema(f->sub, defs));
	}
	return NULL;
}

static json_t *or_null(json_t *schema)
{
	return json_pack("{s:[o, {s:s}]}", "anyOf", schema, "type", "null");
}

static json_t *object_schema(const struct km_msg_desc *d, json_t *defs)
{
	json_t *properties = json_object(), *required = json_array();
	bool bad = !properties || !required;

	for (size_t i = 0; i < d->n_fields && !bad; i++) {
		const struct field *f = &d->fields[i];
		json_t *schema = field_schema(f, defs);

		if (!f->required)
			schema = or_null(schema);
		bad = json_object_set_new(properties, f->json, schema) ||
		      (f->required && json_array_append_new(required, json_string(f->json)));
	}
	if (bad) {
		json_decref(properties);
		json_decref(required);
		return NULL;
	}
	return json_pack("{s:s, s:o, s:o}", "type", "object", "properties", properties, "required",
			 required);
}

json_t *km_msg_schema(const struct km_msg_desc *d)
{
	json_t *defs = json_object(), *body = NULL, *out = NULL;

	if (!defs)
		goto out;
	body = object_schema(d, defs);
	if (!body)
		goto out;
	out = json_pack("{s:s, s:s}", "$schema", "https://json-schema.org/draft/2020-12/schema",
			"title", d->name);
	if (out && (json_object_update(out, body) ||
		    (json_object_size(defs) && json_object_set(out, "$defs", defs)))) {
		json_decref(out);
		out = NULL;
	}
out:
	json_decref(body);
	json_decref(defs);
	return out;
}
