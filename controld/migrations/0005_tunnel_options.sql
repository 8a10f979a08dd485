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

-- The tunnels of a domain have one `tls`, and with passthrough there is one only: a handshake comes before any
-- path. Who writes a tunnel of the domain first takes this lock, before any row …
CREATE FUNCTION km_domain_lock(domain text) RETURNS void LANGUAGE sql AS $$
	SELECT pg_advisory_xact_lock(hashtext('km_domain'), hashtext(domain))
$$;
-- … and then says this of the tunnel: whose `tls` the others get too, where for_all is true. SQLSTATE 40001 when
-- they do not agree after all. All rows are locked before the first revision is taken.
CREATE FUNCTION km_domain_settle(tunnel uuid, for_all boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t tunnels := (SELECT x FROM tunnels x WHERE id = tunnel);
	others uuid[] := (SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM tunnels
		WHERE domain = t.domain AND id <> t.id AND port IS NULL);
BEGIN
	IF for_all THEN
		PERFORM km_before('tunnel', o) FROM unnest(others) o;
		UPDATE tunnels SET tls = t.tls, updated_at = now() WHERE id = ANY (others);
		PERFORM km_change('tunnel', 'update', o) FROM unnest(others) o;
	END IF;
	IF EXISTS (SELECT FROM tunnels WHERE id = ANY (others) AND (tls <> t.tls OR tls = 'passthrough')) THEN
		RAISE EXCEPTION USING ERRCODE = '40001', MESSAGE = 'the domain has got another tunnel meanwhile';
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
