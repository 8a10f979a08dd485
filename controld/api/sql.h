/* SPDX-License-Identifier: MIT */
/* Pieces of SQL that several views share. The database makes the JSON of each item. */
#ifndef CONTROLD_API_SQL_H
#define CONTROLD_API_SQL_H

/* clang-format off */

/* A token that has not expired. */
#define SQL_TOKEN_VALID(t) "(" t ".expires_at IS NULL OR " t ".expires_at > now())"
/* What the hub wrote last counts for 60 s: a control that died cannot say "offline". */
#define SQL_ONLINE(t)                                                                              \
	"(" t ".status = 'online' AND " t ".last_seen_at > now() - interval '60 seconds')"
#define SQL_STATUS(t) "CASE WHEN " SQL_ONLINE(t) " THEN 'online' ELSE 'offline' END"
/* The values of an object in the report, as an array. */
#define SQL_REPORT_LIST(t, key)                                                                    \
	"(SELECT coalesce(jsonb_agg(x.value), '[]') FROM jsonb_each(" t ".report->'" key "') x)"
#define SQL_APPLIED(t)                                                                             \
	"'appliedEpoch', " t ".acked_epoch, 'appliedRevision', " t ".acked_revision, "             \
	"'configError', " t ".ack_error, "
#define SQL_TIMES(t)                                                                               \
	"'createdAt', km_time(" t ".created_at), 'updatedAt', km_time(" t ".updated_at)"
/* A page in the order of creation, for req_list: the page is cut out of the table t before anything
 * else is looked up for its rows. */
#define SQL_USEC(t) "(extract(epoch FROM " t ".created_at) * 1000000)::bigint"
#define SQL_LIST(view, table, t, joins) SQL_LIST_OF(view, table, t, joins, "true")
/* The same of those x for which the condition holds. */
#define SQL_LIST_OF(view, table, t, joins, condition)                                              \
	"SELECT " view ", " SQL_USEC(t) " || '_' || " t ".id FROM (SELECT * FROM " table " x "     \
	"WHERE ($2::bigint IS NULL OR (" SQL_USEC("x") ", x.id) > ($2::bigint, $3::uuid)) "        \
	"AND (" condition ") "                                                                     \
	"ORDER BY x.created_at, x.id LIMIT $1::int) " t " " joins                                  \
	" ORDER BY " t ".created_at, " t ".id"

/* clang-format on */

#endif
