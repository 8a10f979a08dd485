-- SPDX-License-Identifier: MIT
-- What a tunnel may want beyond its place, and how its target is spoken to, goes to the gateways.

-- In the form of the messages (struct tunnel_options), so that it is sent as it stands; km_options_view
-- makes of it what operators write.
ALTER TABLE tunnels ADD CONSTRAINT tunnels_options_check CHECK (jsonb_typeof(options) = 'object');

CREATE OR REPLACE FUNCTION km_tunnel_json(tunnel uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'id', t.id, 'domain', t.domain, 'path', t.path, 'protocol', t.protocol, 'enabled', t.enabled,
		'agentId', g.agent_id, 'agentVirtualIp', host(a.virtual_ip),
		'targetId', g.id, 'target', g.address, 'targetProtocol', nullif(g.protocol, 'http'),
		'tls', t.tls, 'options', nullif(t.options, '{}')))
	FROM tunnels t JOIN targets g ON g.tunnel_id = t.id JOIN agents a ON a.id = g.agent_id
	WHERE t.id = tunnel ORDER BY NOT g.enabled, g.priority, g.created_at, g.id LIMIT 1
$$;

-- Ends the transaction with SQLSTATE 40001 when the tunnel, which km_before has locked, is another than the
-- one that was looked at: version is the xmin of its row then.
CREATE FUNCTION km_tunnel_still(tunnel uuid, version text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM tunnels WHERE id = tunnel AND xmin::text = version) THEN
		RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'the tunnel has changed meanwhile';
	END IF;
END $$;

-- [{name, value}, {name}] as {set: {name: value}, remove: [name]}.
CREATE FUNCTION km_rules_view(rules jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_build_object(
		'set', coalesce(jsonb_object_agg(r->>'name', r->'value') FILTER (WHERE r ? 'value'), '{}'),
		'remove', coalesce(jsonb_agg(r->'name') FILTER (WHERE NOT r ? 'value'), '[]'))
	FROM jsonb_array_elements(rules) r
$$;

-- {requests, per, burst} as {rate: "100/s", burst}; per is in milliseconds.
CREATE FUNCTION km_rate_view(rate jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_build_object('rate', (rate->>'requests') || '/' || coalesce(nullif(per / u.ms, 1)::text, '') || u.name,
		'burst', rate->'burst')
	FROM (SELECT (rate->>'per')::bigint AS per) p,
		(VALUES ('d', 86400000), ('h', 3600000), ('m', 60000), ('s', 1000), ('ms', 1)) u (name, ms)
	WHERE per % u.ms = 0 ORDER BY u.ms DESC LIMIT 1
$$;

CREATE FUNCTION km_options_view(o jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN o = '{}' THEN o ELSE o || jsonb_strip_nulls(jsonb_build_object(
		'requestHeaders', CASE WHEN o ? 'requestHeaders' THEN km_rules_view(o->'requestHeaders') END,
		'responseHeaders', CASE WHEN o ? 'responseHeaders' THEN km_rules_view(o->'responseHeaders') END,
		'rateLimit', CASE WHEN o ? 'rateLimit' THEN km_rate_view(o->'rateLimit') END,
		'addressRateLimit', CASE WHEN o ? 'addressRateLimit' THEN km_rate_view(o->'addressRateLimit') END)) END
$$;
