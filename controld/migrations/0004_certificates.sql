-- SPDX-License-Identifier: MIT
-- Certificates for tunnels' domains: how a tunnel has its TLS, and who obtains which certificate now.

-- auto: gateways obtain a certificate. own: one that the operator has put on the gateways. passthrough: the
-- handshake is the target's. off: none; the domain is served over plain HTTP.
ALTER TABLE tunnels ADD tls text NOT NULL DEFAULT 'auto'
	CONSTRAINT tunnels_tls_check CHECK (tls IN ('auto', 'own', 'passthrough', 'off'));

CREATE OR REPLACE FUNCTION km_tunnel_json(tunnel uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'id', t.id, 'domain', t.domain, 'path', t.path, 'protocol', t.protocol, 'enabled', t.enabled,
		'agentId', g.agent_id, 'agentVirtualIp', host(a.virtual_ip),
		'targetId', g.id, 'target', g.address, 'tls', t.tls))
	FROM tunnels t JOIN targets g ON g.tunnel_id = t.id JOIN agents a ON a.id = g.agent_id
	WHERE t.id = tunnel ORDER BY NOT g.enabled, g.priority, g.created_at, g.id LIMIT 1
$$;

-- Which gateway is obtaining a domain's certificate. Advice to gateways, and nothing else: neither key nor
-- challenge comes here.
CREATE TABLE certificate_leases (
	domain     text PRIMARY KEY,
	gateway_id uuid NOT NULL CONSTRAINT certificate_leases_gateway_id_fkey REFERENCES gateways ON DELETE CASCADE,
	expires_at timestamptz NOT NULL
);
CREATE INDEX certificate_leases_gateway_id_idx ON certificate_leases (gateway_id);
CREATE INDEX certificate_leases_expires_at_idx ON certificate_leases (expires_at);

-- In the order of the list, and to find those of a domain.
CREATE INDEX certificates_domain_idx ON certificates (domain, gateway_id);
CREATE INDEX certificates_status_idx ON certificates (status, domain, gateway_id);

-- What is known of a domain's certificates goes with the last tunnel that has the domain …
CREATE FUNCTION km_forget_domain() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'UPDATE' AND NEW.domain IS NOT DISTINCT FROM OLD.domain THEN
		RETURN NULL;
	END IF;
	IF NOT EXISTS (SELECT FROM tunnels WHERE domain = OLD.domain) THEN
		DELETE FROM certificates WHERE domain = OLD.domain;
		DELETE FROM certificate_leases WHERE domain = OLD.domain;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER tunnels_forget AFTER DELETE OR UPDATE OF domain ON tunnels
	FOR EACH ROW EXECUTE FUNCTION km_forget_domain();
CREATE INDEX tunnels_domain_idx ON tunnels (domain);

-- … and what a gateway said and holds goes when it is revoked (when it is deleted: by reference).
CREATE FUNCTION km_forget_gateway() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM certificates WHERE gateway_id = NEW.id;
	DELETE FROM certificate_leases WHERE gateway_id = NEW.id;
	RETURN NULL;
END $$;
CREATE TRIGGER gateways_forget AFTER UPDATE OF revoked_at ON gateways
	FOR EACH ROW WHEN (NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION km_forget_gateway();
DELETE FROM certificates c WHERE NOT EXISTS (SELECT FROM tunnels t WHERE t.domain = c.domain)
	OR EXISTS (SELECT FROM gateways g WHERE g.id = c.gateway_id AND g.revoked_at IS NOT NULL);
