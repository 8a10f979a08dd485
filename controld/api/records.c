/* SPDX-License-Identifier: MIT */
/* Lists that are only read: certificates that gateways hold, the audit log. */
#include "controld/api/request.h"
#include "controld/api/route.h"

/* clang-format off */
#define CERTIFICATES(domain, gateway, status)                                                      \
	"FROM certificates c JOIN gateways g ON g.id = c.gateway_id "                              \
	"WHERE (" domain "::text IS NULL OR c.domain = " domain ") AND (" gateway "::text IS NULL "\
	"OR g.name = " gateway " OR g.id::text = " gateway ") "                                    \
	"AND (" status "::text IS NULL OR c.status = " status ") "
/* clang-format on */

#define NO_ID "00000000-0000-0000-0000-000000000000"

void certificates_list(struct req *rq)
{
	req_list(rq,
		 "SELECT json_build_object('domain', c.domain, 'gatewayId', c.gateway_id, "
		 "'gatewayName', g.name, 'status', c.status, 'issuer', c.issuer, "
		 "'notAfter', km_time(c.not_after), 'fingerprint', c.fingerprint, "
		 "'error', c.last_error, 'nextTryAt', km_time(c.next_try_at), "
		 "'updatedAt', km_time(c.updated_at)), c.domain || '_' || c.gateway_id "
		 CERTIFICATES("$4", "$5", "$6")
		 "AND ($2::text IS NULL OR (c.domain, c.gateway_id) > ($2::text, $3::uuid)) "
		 "ORDER BY c.domain, c.gateway_id LIMIT $1::int",
		 "SELECT count(*) " CERTIFICATES("$1", "$2", "$3"));
}

void audit_list(struct req *rq)
{
	req_list(rq,
		 "SELECT json_build_object('id', l.id, 'at', km_time(l.at), 'actor', l.actor, "
		 "'address', host(l.address), 'action', l.action, 'entityId', l.entity_id, "
		 "'details', l.details), l.id || '_" NO_ID "' FROM audit_log l "
		 "WHERE $2::bigint IS NULL OR (l.id < $2::bigint AND $3::text IS NOT NULL) "
		 "ORDER BY l.id DESC LIMIT $1::int",
		 "SELECT count(*) FROM audit_log");
}
