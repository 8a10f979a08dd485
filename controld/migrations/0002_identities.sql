-- SPDX-License-Identifier: MIT
-- Hosts with identities: certificate authorities, hosts' certificates, enrolments, the trust bundle.
--
-- Who can write here is not believed: an authority counts with a mac under the master key only, secrets
-- are stored as digests under it that name their host and its number, and what control signs it takes
-- from an authenticated host or from an earlier certificate, never from a row.

-- sealed_key: under the master key; NULL: the key is with the operator (offline).
CREATE TABLE authorities (
	id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	fingerprint text NOT NULL CONSTRAINT authorities_fingerprint_key UNIQUE CONSTRAINT authorities_fingerprint_check CHECK (fingerprint ~ '^[0-9a-f]{64}$'),
	certificate text NOT NULL,
	sealed_key  text,
	state       text NOT NULL CONSTRAINT authorities_state_check CHECK (state IN ('active', 'trusted', 'retired')),
	mac         bytea NOT NULL,
	not_after   timestamptz NOT NULL,
	created_at  timestamptz NOT NULL DEFAULT now(),
	retired_at  timestamptz
);
CREATE UNIQUE INDEX authorities_active_key ON authorities (state) WHERE state = 'active';

-- Every certificate that was issued, until it is of no more interest. blocked_at: it was revoked; its
-- fingerprint stays in the bundle's blocklist.
CREATE TABLE host_certificates (
	fingerprint text PRIMARY KEY CONSTRAINT host_certificates_fingerprint_check CHECK (fingerprint ~ '^[0-9a-f]{64}$'),
	authority   text NOT NULL,
	kind        text NOT NULL CONSTRAINT host_certificates_kind_check CHECK (kind IN ('agent', 'gateway')),
	host_id     uuid NOT NULL,
	public_key  text NOT NULL,
	certificate text NOT NULL,
	not_before  timestamptz NOT NULL,
	not_after   timestamptz NOT NULL,
	created_at  timestamptz NOT NULL DEFAULT now(),
	blocked_at  timestamptz
);
CREATE INDEX host_certificates_host_id_idx ON host_certificates (host_id);
CREATE INDEX host_certificates_blocked_idx ON host_certificates (fingerprint) WHERE blocked_at IS NOT NULL;

-- What waits for a CA that is offline.
CREATE TABLE enrolments (
	id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	kind         text NOT NULL CONSTRAINT enrolments_kind_check CHECK (kind IN ('agent', 'gateway')),
	host_id      uuid NOT NULL,
	public_key   text NOT NULL CONSTRAINT enrolments_public_key_key UNIQUE,
	reason       text NOT NULL CONSTRAINT enrolments_reason_check CHECK (reason IN ('join', 'renewal', 'rotation', 'rename')),
	requested_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX enrolments_host_id_idx ON enrolments (host_id);

-- The newest bundle; number 0: there is none yet.
CREATE TABLE trust (
	one       boolean PRIMARY KEY DEFAULT true CONSTRAINT trust_one_check CHECK (one),
	number    bigint NOT NULL,
	bundle    text NOT NULL,
	signed    boolean NOT NULL,
	issued_at timestamptz NOT NULL DEFAULT now(),
	wanted    bigint NOT NULL DEFAULT 1, -- grows with whatever a bundle is made from
	built     bigint NOT NULL DEFAULT 0  -- what it was when this one was made
);
INSERT INTO trust (number, bundle, signed) VALUES (0, '', false);

-- join_key: the WireGuard key that has used the join token; the same key may ask again.
-- The last bundle that a CA has signed before another one signs: a host that was away for both takes
-- them in order, and so comes to trust the newer CA through the older one.
CREATE TABLE trust_steps (
	number bigint PRIMARY KEY,
	bundle text NOT NULL
);

-- certificate_due: it is to be issued anew before its time (a rename, say).
-- next_*: the key to come of a rotation. revoked_at: nothing of it is accepted any more.
ALTER TABLE agents
	ADD join_token_prefix text, ADD join_key text,
	ADD next_public_key text CONSTRAINT agents_next_public_key_key UNIQUE, ADD next_certificate text,
	ADD certificate_fingerprint text, ADD certificate_not_after timestamptz,
	ADD certificate_due boolean NOT NULL DEFAULT false, ADD revoked_at timestamptz;
ALTER TABLE gateways
	ADD join_token_prefix text, ADD join_key text,
	ADD next_public_key text CONSTRAINT gateways_next_public_key_key UNIQUE, ADD next_certificate text,
	ADD certificate_fingerprint text, ADD certificate_not_after timestamptz,
	ADD certificate_due boolean NOT NULL DEFAULT false, ADD revoked_at timestamptz;

-- Secrets are found by what is shown of them.
CREATE INDEX agents_api_key_prefix_idx ON agents (api_key_prefix);
CREATE INDEX agents_join_token_prefix_idx ON agents (join_token_prefix);
CREATE INDEX gateways_api_key_prefix_idx ON gateways (api_key_prefix);
CREATE INDEX gateways_join_token_prefix_idx ON gateways (join_token_prefix);
CREATE INDEX tokens_prefix_idx ON tokens (prefix);

-- Whose WireGuard keys these are, present and next, of agents and gateways together: nobody can
-- bind, or announce as the next one, the key of somebody else. What was asked of a CA for a key that
-- its host has no more is forgotten.
CREATE TABLE wireguard_keys (
	public_key text CONSTRAINT wireguard_keys_pkey PRIMARY KEY,
	host_id    uuid NOT NULL
);
CREATE INDEX wireguard_keys_host_id_idx ON wireguard_keys (host_id);
INSERT INTO wireguard_keys
	SELECT wireguard_public_key, id FROM agents WHERE wireguard_public_key IS NOT NULL
	UNION ALL SELECT wireguard_public_key, id FROM gateways WHERE wireguard_public_key IS NOT NULL
	ON CONFLICT DO NOTHING;
CREATE FUNCTION km_own_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		DELETE FROM wireguard_keys WHERE host_id = OLD.id;
		DELETE FROM enrolments WHERE host_id = OLD.id;
		RETURN NULL;
	END IF;
	DELETE FROM wireguard_keys WHERE host_id = NEW.id
		AND public_key IS DISTINCT FROM NEW.wireguard_public_key
		AND public_key IS DISTINCT FROM NEW.next_public_key;
	DELETE FROM enrolments WHERE host_id = NEW.id
		AND public_key IS DISTINCT FROM NEW.wireguard_public_key
		AND public_key IS DISTINCT FROM NEW.next_public_key;
	INSERT INTO wireguard_keys
		SELECT DISTINCT k, NEW.id FROM unnest(ARRAY[NEW.wireguard_public_key, NEW.next_public_key]) k
		WHERE k IS NOT NULL
		AND NOT EXISTS (SELECT FROM wireguard_keys w WHERE w.public_key = k AND w.host_id = NEW.id);
	RETURN NULL;
END $$;
CREATE TRIGGER agents_keys AFTER INSERT OR DELETE OR UPDATE OF wireguard_public_key, next_public_key
	ON agents FOR EACH ROW EXECUTE FUNCTION km_own_keys();
CREATE TRIGGER gateways_keys AFTER INSERT OR DELETE OR UPDATE OF wireguard_public_key, next_public_key
	ON gateways FOR EACH ROW EXECUTE FUNCTION km_own_keys();

-- Gateways' numbers that certificates still name, or that have just been told to somebody.
CREATE TABLE retired_numbers (
	number integer PRIMARY KEY,
	until  timestamptz NOT NULL
);

-- A number that a host of this name is to have, told before the row is made: the secrets' digests
-- name it. A name that is taken uses no number up.
CREATE FUNCTION km_next_number(kind text, wanted text DEFAULT NULL) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	n integer;
	taken boolean;
BEGIN
	EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE name = $1)', kind || 's') INTO taken USING wanted;
	IF taken THEN
		RAISE EXCEPTION USING ERRCODE = '23505', CONSTRAINT = kind || 's_name_key',
			MESSAGE = format('another %s has this name', kind);
	END IF;
	IF kind = 'agent' THEN
		IF (SELECT is_called AND last_value >= 65535 FROM agent_numbers) THEN
			RAISE EXCEPTION USING ERRCODE = 'KM507', MESSAGE = 'every agent number has been given';
		END IF;
		RETURN nextval('agent_numbers');
	END IF;
	-- One that a certificate still names is not given again, nor one that was told to somebody else
	-- a moment ago: his row comes with the next transaction.
	PERFORM pg_advisory_xact_lock(hashtext('km_gateway_place'));
	n := (SELECT i FROM generate_series(1, 254) i
		WHERE NOT EXISTS (SELECT FROM gateways g WHERE g.number = i)
		AND NOT EXISTS (SELECT FROM retired_numbers r WHERE r.number = i AND r.until > now())
		ORDER BY i LIMIT 1);
	IF n IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'KM507', MESSAGE = 'there are 254 gateways already';
	END IF;
	INSERT INTO retired_numbers VALUES (n, now() + interval '15 seconds')
		ON CONFLICT (number) DO UPDATE SET until = excluded.until;
	RETURN n;
END $$;

CREATE OR REPLACE FUNCTION km_agent_place() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	net cidr := (SELECT value::cidr FROM settings WHERE key = 'network');
BEGIN
	NEW.number := coalesce(NEW.number, km_next_number('agent'));
	IF NEW.number >= 1 << (24 - masklen(net)) THEN
		RAISE EXCEPTION USING ERRCODE = 'KM507',
			MESSAGE = format('the network %s has no room for another agent', net);
	END IF;
	NEW.subnet := set_masklen((host(net)::inet + NEW.number::bigint * 256)::cidr, 24);
	NEW.virtual_ip := host(NEW.subnet)::inet + 100;
	RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION km_gateway_place() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	net cidr := (SELECT value::cidr FROM settings WHERE key = 'network');
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('km_gateway_place'));
	NEW.number := coalesce(NEW.number, km_next_number('gateway'));
	NEW.virtual_ip := host(net)::inet + NEW.number;
	RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION km_agent_json(agent uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'id', id, 'name', name, 'virtualIp', host(virtual_ip), 'subnet', subnet::text,
		'wireguardPublicKey', wireguard_public_key, 'certificate', certificate,
		'nextPublicKey', CASE WHEN next_certificate IS NOT NULL THEN next_public_key END,
		'nextCertificate', next_certificate))
	FROM agents WHERE id = agent AND revoked_at IS NULL
$$;
CREATE OR REPLACE FUNCTION km_gateway_json(gateway uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'id', id, 'name', name, 'virtualIps', jsonb_build_array(host(virtual_ip)),
		'publicIp', to_jsonb(CASE WHEN public_ip = '{}' THEN reported_ip ELSE public_ip END),
		'wireguardPort', wireguard_port,
		'wireguardPublicKey', wireguard_public_key, 'certificate', certificate,
		'nextPublicKey', CASE WHEN next_certificate IS NOT NULL THEN next_public_key END,
		'nextCertificate', next_certificate))
	FROM gateways WHERE id = gateway AND revoked_at IS NULL
$$;

-- The bundle must be made anew: every controld is woken, one makes it.
CREATE FUNCTION km_trust_wanted() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE trust SET wanted = wanted + 1;
	PERFORM pg_notify('km_changes', '');
END $$;

-- Blocks every certificate of a host that has not ended (a year later they are of no interest: 90 days
-- of validity, and the longest grace time), and keeps a gateway's number from being given again so long.
CREATE FUNCTION km_block(host uuid) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	INSERT INTO retired_numbers (number, until)
		SELECT g.number, max(c.not_after) FROM gateways g JOIN host_certificates c ON c.host_id = g.id
		WHERE g.id = host GROUP BY g.number
		ON CONFLICT (number) DO UPDATE SET until = greatest(retired_numbers.until, excluded.until);
	UPDATE host_certificates SET blocked_at = now() WHERE host_id = host AND blocked_at IS NULL;
	GET DIAGNOSTICS n = ROW_COUNT;
	DELETE FROM enrolments WHERE host_id = host;
	IF n > 0 THEN
		PERFORM km_trust_wanted();
	END IF;
	RETURN n;
END $$;

-- A CA is retired although hosts' certificates are by it: they have none any more, come again, and
-- get new ones for the secrets that they prove.
CREATE FUNCTION km_disown(ca text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	h record;
BEGIN
	FOR h IN SELECT 'agent' AS kind, a.id FROM agents a
			JOIN host_certificates c ON c.fingerprint = a.certificate_fingerprint WHERE c.authority = ca
		UNION ALL SELECT 'gateway', g.id FROM gateways g
			JOIN host_certificates c ON c.fingerprint = g.certificate_fingerprint WHERE c.authority = ca
	LOOP
		PERFORM km_before(h.kind, h.id);
		EXECUTE format('UPDATE %I SET certificate = NULL, certificate_fingerprint = NULL, '
			'certificate_not_after = NULL WHERE id = $1', h.kind || 's') USING h.id;
		PERFORM km_change(h.kind, 'update', h.id);
	END LOOP;
END $$;
