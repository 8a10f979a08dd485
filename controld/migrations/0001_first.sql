-- SPDX-License-Identifier: MIT
-- The first schema. Each migration runs once, in a transaction of its own, under an advisory lock.
--
-- How a mutation is written (one implicit transaction, see store.h):
--     SELECT km_before('tunnel', $1)              locks the row, keeps its old form; KM404: no such row
--     UPDATE tunnels SET … ; UPDATE targets SET …
--     SELECT km_change('tunnel', 'update', $1)    LAST: takes the next revision, writes `changes`, notifies
-- For 'create' km_before is left out; for 'delete' km_change comes after the DELETE.

-- ---- small things ----------------------------------------------------------------------------

-- The form in which times leave the database.
CREATE FUNCTION km_time(t timestamptz) RETURNS text LANGUAGE sql STABLE
	RETURN to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

-- Ends the transaction with SQLSTATE KM404 unless ok.
CREATE FUNCTION km_must_find(ok boolean, what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF ok IS NOT TRUE THEN
		RAISE EXCEPTION USING ERRCODE = 'KM404', MESSAGE = what;
	END IF;
END $$;

-- Installation-wide facts: 'network' (written at start), the sealed root key of control, …
CREATE TABLE settings (
	key        text PRIMARY KEY,
	value      text NOT NULL,
	updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO settings (key, value) VALUES ('network', '10.0.0.0/8');

-- ---- tenants ---------------------------------------------------------------------------------

CREATE TABLE organisations (
	id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	name       text NOT NULL CONSTRAINT organisations_name_key UNIQUE,
	created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO organisations (id, name) VALUES ('00000000-0000-4000-8000-000000000001', 'default');

CREATE TABLE users (
	id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	organisation_id uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
	                CONSTRAINT users_organisation_id_fkey REFERENCES organisations,
	name            text NOT NULL CONSTRAINT users_name_key UNIQUE,
	password_hash   text,
	role            text NOT NULL DEFAULT 'admin'
	                CONSTRAINT users_role_check CHECK (role IN ('admin', 'member', 'viewer')),
	created_at      timestamptz NOT NULL DEFAULT now(),
	updated_at      timestamptz NOT NULL DEFAULT now()
);

-- hash: SHA-256 of the whole token text ("kmt_…"); prefix: its first 8 characters.
CREATE TABLE tokens (
	id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	organisation_id uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
	                CONSTRAINT tokens_organisation_id_fkey REFERENCES organisations,
	user_id         uuid CONSTRAINT tokens_user_id_fkey REFERENCES users ON DELETE CASCADE,
	name            text NOT NULL,
	hash            bytea NOT NULL CONSTRAINT tokens_hash_key UNIQUE
	                CONSTRAINT tokens_hash_check CHECK (length(hash) = 32),
	prefix          text NOT NULL,
	role            text NOT NULL DEFAULT 'admin'
	                CONSTRAINT tokens_role_check CHECK (role IN ('admin', 'member', 'viewer')),
	expires_at      timestamptz,
	last_used_at    timestamptz,
	created_at      timestamptz NOT NULL DEFAULT now()
);

-- ---- agents and gateways ---------------------------------------------------------------------

-- A number is never given twice: certificates that name it may still be valid.
CREATE SEQUENCE agent_numbers AS integer MINVALUE 256 MAXVALUE 65535;

CREATE TABLE agents (
	id                    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	organisation_id       uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
	                      CONSTRAINT agents_organisation_id_fkey REFERENCES organisations,
	number                integer NOT NULL CONSTRAINT agents_number_key UNIQUE,
	name                  text NOT NULL
	                      CONSTRAINT agents_name_check CHECK (name ~ '^[a-zA-Z0-9_-]{1,64}$'),
	api_key_hash          bytea NOT NULL CONSTRAINT agents_api_key_hash_key UNIQUE
	                      CONSTRAINT agents_api_key_hash_check CHECK (length(api_key_hash) = 32),
	api_key_prefix        text NOT NULL,
	join_token_hash       bytea CONSTRAINT agents_join_token_hash_key UNIQUE,
	join_token_expires_at timestamptz,
	subnet                cidr NOT NULL,
	virtual_ip            inet NOT NULL CONSTRAINT agents_virtual_ip_key UNIQUE,
	wireguard_public_key  text CONSTRAINT agents_wireguard_public_key_key UNIQUE,
	pending_public_key    text,
	certificate           text,
	status                text NOT NULL DEFAULT 'offline'
	                      CONSTRAINT agents_status_check CHECK (status IN ('online', 'offline')),
	version               text,
	hostname              text,
	report                jsonb NOT NULL DEFAULT '{}', -- what its `status` messages say, merged
	acked_epoch           text,
	acked_revision        bigint,
	ack_error             text,
	last_seen_at          timestamptz,
	created_at            timestamptz NOT NULL DEFAULT now(),
	updated_at            timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT agents_name_key UNIQUE (organisation_id, name)
);

-- Gateways belong to the installation, not to a tenant.
CREATE TABLE gateways (
	id                    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	number                integer NOT NULL CONSTRAINT gateways_number_key UNIQUE
	                      CONSTRAINT gateways_number_check CHECK (number BETWEEN 1 AND 254),
	name                  text NOT NULL CONSTRAINT gateways_name_key UNIQUE
	                      CONSTRAINT gateways_name_check CHECK (name ~ '^[a-zA-Z0-9_-]{1,64}$'),
	api_key_hash          bytea NOT NULL CONSTRAINT gateways_api_key_hash_key UNIQUE
	                      CONSTRAINT gateways_api_key_hash_check CHECK (length(api_key_hash) = 32),
	api_key_prefix        text NOT NULL,
	join_token_hash       bytea CONSTRAINT gateways_join_token_hash_key UNIQUE,
	join_token_expires_at timestamptz,
	public_ip             text[] NOT NULL DEFAULT '{}', -- as the operator set it; it has precedence
	reported_ip           text[] NOT NULL DEFAULT '{}', -- as the gateway or its connection says
	wireguard_port        integer NOT NULL DEFAULT 51820
	                      CONSTRAINT gateways_wireguard_port_check CHECK (wireguard_port BETWEEN 1 AND 65535),
	region                text,
	virtual_ip            inet NOT NULL CONSTRAINT gateways_virtual_ip_key UNIQUE,
	wireguard_public_key  text CONSTRAINT gateways_wireguard_public_key_key UNIQUE,
	pending_public_key    text,
	certificate           text,
	status                text NOT NULL DEFAULT 'offline'
	                      CONSTRAINT gateways_status_check CHECK (status IN ('online', 'offline')),
	version               text,
	hostname              text,
	report                jsonb NOT NULL DEFAULT '{}',
	acked_epoch           text,
	acked_revision        bigint,
	ack_error             text,
	last_seen_at          timestamptz,
	created_at            timestamptz NOT NULL DEFAULT now(),
	updated_at            timestamptz NOT NULL DEFAULT now()
);

-- network is cut into /24s: number 0 is the gateways', agents have one each, with .100 in it.
-- An INSERT names neither number nor addresses; they are set here. KM507: the network is full.
CREATE FUNCTION km_agent_place() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	net cidr := (SELECT value::cidr FROM settings WHERE key = 'network');
BEGIN
	IF (SELECT is_called AND last_value >= 65535 FROM agent_numbers) THEN
		RAISE EXCEPTION USING ERRCODE = 'KM507', MESSAGE = 'every agent number has been given';
	END IF;
	NEW.number := nextval('agent_numbers');
	IF NEW.number >= 1 << (24 - masklen(net)) THEN
		RAISE EXCEPTION USING ERRCODE = 'KM507',
			MESSAGE = format('the network %s has no room for another agent', net);
	END IF;
	NEW.subnet := set_masklen((host(net)::inet + NEW.number::bigint * 256)::cidr, 24);
	NEW.virtual_ip := host(NEW.subnet)::inet + 100;
	RETURN NEW;
END $$;
CREATE TRIGGER agents_place BEFORE INSERT ON agents
	FOR EACH ROW EXECUTE FUNCTION km_agent_place();

CREATE FUNCTION km_gateway_place() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	net cidr := (SELECT value::cidr FROM settings WHERE key = 'network');
BEGIN
	PERFORM pg_advisory_xact_lock(hashtext('km_gateway_place'));
	NEW.number := (SELECT n FROM generate_series(1, 254) n
		WHERE NOT EXISTS (SELECT FROM gateways g WHERE g.number = n) ORDER BY n LIMIT 1);
	IF NEW.number IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'KM507', MESSAGE = 'there are 254 gateways already';
	END IF;
	NEW.virtual_ip := host(net)::inet + NEW.number;
	RETURN NEW;
END $$;
CREATE TRIGGER gateways_place BEFORE INSERT ON gateways
	FOR EACH ROW EXECUTE FUNCTION km_gateway_place();

-- ---- tunnels ---------------------------------------------------------------------------------

CREATE TABLE tunnels (
	id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	organisation_id uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
	                CONSTRAINT tunnels_organisation_id_fkey REFERENCES organisations,
	domain          text CONSTRAINT tunnels_domain_check
	                CHECK (domain = lower(domain) AND length(domain) BETWEEN 1 AND 253),
	path            text CONSTRAINT tunnels_path_check CHECK (path ~ '^/' AND length(path) <= 1024),
	port            integer CONSTRAINT tunnels_port_check CHECK (port BETWEEN 1 AND 65535),
	protocol        text NOT NULL DEFAULT 'http'
	                CONSTRAINT tunnels_protocol_check CHECK (protocol IN ('http', 'tcp', 'udp', 'tls')),
	enabled         boolean NOT NULL DEFAULT true,
	description     text NOT NULL DEFAULT '',
	options         jsonb NOT NULL DEFAULT '{}',
	created_at      timestamptz NOT NULL DEFAULT now(),
	updated_at      timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT tunnels_match_check CHECK (domain IS NOT NULL OR port IS NOT NULL)
);
CREATE UNIQUE INDEX tunnels_domain_path_key ON tunnels (domain, coalesce(path, '')) WHERE port IS NULL;
CREATE UNIQUE INDEX tunnels_port_key ON tunnels ((CASE protocol WHEN 'udp' THEN 'udp' ELSE 'tcp' END), port)
	WHERE port IS NOT NULL;

-- An agent that targets lead to cannot be deleted: targets_agent_id_fkey.
CREATE TABLE targets (
	id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
	organisation_id uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
	                CONSTRAINT targets_organisation_id_fkey REFERENCES organisations,
	tunnel_id       uuid NOT NULL CONSTRAINT targets_tunnel_id_fkey REFERENCES tunnels ON DELETE CASCADE,
	agent_id        uuid NOT NULL CONSTRAINT targets_agent_id_fkey REFERENCES agents,
	address         text NOT NULL CONSTRAINT targets_address_check CHECK (length(address) BETWEEN 1 AND 300),
	protocol        text NOT NULL DEFAULT 'http' CONSTRAINT targets_protocol_check
	                CHECK (protocol IN ('http', 'h2c', 'https', 'tcp', 'udp')),
	weight          integer NOT NULL DEFAULT 1 CONSTRAINT targets_weight_check CHECK (weight BETWEEN 0 AND 1000),
	priority        integer NOT NULL DEFAULT 0 CONSTRAINT targets_priority_check CHECK (priority BETWEEN 0 AND 1000),
	enabled         boolean NOT NULL DEFAULT true,
	draining        boolean NOT NULL DEFAULT false,
	created_at      timestamptz NOT NULL DEFAULT now(),
	CONSTRAINT targets_place_key UNIQUE (tunnel_id, agent_id, address)
);
CREATE INDEX targets_agent_id_idx ON targets (agent_id);

-- What gateways hold. No column for a private key.
CREATE TABLE certificates (
	organisation_id uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
	                CONSTRAINT certificates_organisation_id_fkey REFERENCES organisations,
	gateway_id      uuid NOT NULL CONSTRAINT certificates_gateway_id_fkey REFERENCES gateways ON DELETE CASCADE,
	domain          text NOT NULL,
	status          text NOT NULL CONSTRAINT certificates_status_check
	                CHECK (status IN ('pending', 'issuing', 'ready', 'renewal_due', 'error')),
	issuer          text,
	not_after       timestamptz,
	fingerprint     text,
	certificate     text,
	last_error      text,
	next_try_at     timestamptz,
	updated_at      timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (gateway_id, domain)
);

CREATE TABLE audit_log (
	id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	organisation_id uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
	                CONSTRAINT audit_log_organisation_id_fkey REFERENCES organisations,
	at              timestamptz NOT NULL DEFAULT now(),
	actor           text NOT NULL, -- "token kmt_abcd", "user anna", "control"
	address         inet,
	action          text NOT NULL, -- "tunnel.create"
	entity_id       uuid,
	details         jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_at_idx ON audit_log (at);

-- ---- revisions, changes, epochs --------------------------------------------------------------

CREATE TABLE revision (
	one   boolean PRIMARY KEY DEFAULT true CONSTRAINT revision_one_check CHECK (one),
	value bigint NOT NULL
);
INSERT INTO revision (value) VALUES (0);

-- One row per revision, kept 7 days. payload: the thing after, old: before (km_*_json; NULL when
-- there is none); agents: whom a tunnel leads to before or after.
CREATE TABLE changes (
	revision bigint PRIMARY KEY,
	at       timestamptz NOT NULL DEFAULT now(),
	entity   text NOT NULL CONSTRAINT changes_entity_check CHECK (entity IN ('tunnel', 'agent', 'gateway')),
	verb     text NOT NULL CONSTRAINT changes_verb_check CHECK (verb IN ('create', 'update', 'delete')),
	id       uuid NOT NULL,
	payload  jsonb,
	old      jsonb,
	agents   uuid[] NOT NULL DEFAULT '{}'
);
CREATE INDEX changes_at_idx ON changes (at);

-- The life of this database. A dump restored elsewhere, a promoted replica and a recovery to a point
-- in time have another system identifier or timeline, which km_epoch() sees. After bringing back an
-- old state within one server (drop, then restore) an operator says: SELECT km_new_epoch();
CREATE TABLE epoch (
	one               boolean PRIMARY KEY DEFAULT true CONSTRAINT epoch_one_check CHECK (one),
	id                uuid NOT NULL DEFAULT gen_random_uuid(),
	system_identifier text NOT NULL,
	timeline          text NOT NULL,
	began_at          timestamptz NOT NULL DEFAULT now()
);

-- "-" where this user may not ask.
CREATE FUNCTION km_system_identifier() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN (SELECT system_identifier::text FROM pg_control_system());
EXCEPTION WHEN insufficient_privilege THEN
	RETURN '-';
END $$;
CREATE FUNCTION km_timeline() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8);
EXCEPTION WHEN insufficient_privilege THEN
	RETURN '-';
END $$;
INSERT INTO epoch (system_identifier, timeline) VALUES (km_system_identifier(), km_timeline());

CREATE FUNCTION km_new_epoch() RETURNS uuid LANGUAGE sql AS $$
	UPDATE epoch SET id = gen_random_uuid(), began_at = now(),
		system_identifier = km_system_identifier(), timeline = km_timeline()
	RETURNING id
$$;

-- The epoch; a new one when the database now lives elsewhere than when the last one began.
CREATE FUNCTION km_epoch() RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
	e epoch;
BEGIN
	SELECT * INTO e FROM epoch;
	IF e.system_identifier = km_system_identifier() AND e.timeline = km_timeline() THEN
		RETURN e.id;
	END IF;
	SELECT * INTO e FROM epoch FOR UPDATE; -- several controld may see it at once
	IF e.system_identifier = km_system_identifier() AND e.timeline = km_timeline() THEN
		RETURN e.id;
	END IF;
	RETURN km_new_epoch();
END $$;

-- ---- the forms in which clients get things (the data of the messages) --------------------------

CREATE FUNCTION km_agent_json(agent uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'id', id, 'name', name, 'virtualIp', host(virtual_ip), 'subnet', subnet::text,
		'wireguardPublicKey', wireguard_public_key, 'certificate', certificate))
	FROM agents WHERE id = agent
$$;
CREATE FUNCTION km_gateway_json(gateway uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'id', id, 'name', name, 'virtualIps', jsonb_build_array(host(virtual_ip)),
		'publicIp', to_jsonb(CASE WHEN public_ip = '{}' THEN reported_ip ELSE public_ip END),
		'wireguardPort', wireguard_port,
		'wireguardPublicKey', wireguard_public_key, 'certificate', certificate))
	FROM gateways WHERE id = gateway
$$;
-- Names the target of highest standing (lowest priority number, then oldest).
CREATE FUNCTION km_tunnel_json(tunnel uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'id', t.id, 'domain', t.domain, 'path', t.path, 'protocol', t.protocol, 'enabled', t.enabled,
		'agentId', g.agent_id, 'agentVirtualIp', host(a.virtual_ip),
		'targetId', g.id, 'target', g.address))
	FROM tunnels t JOIN targets g ON g.tunnel_id = t.id JOIN agents a ON a.id = g.agent_id
	WHERE t.id = tunnel ORDER BY NOT g.enabled, g.priority, g.created_at, g.id LIMIT 1
$$;
CREATE FUNCTION km_json(entity text, thing uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
	SELECT CASE entity WHEN 'tunnel' THEN km_tunnel_json(thing) WHEN 'agent' THEN km_agent_json(thing)
		WHEN 'gateway' THEN km_gateway_json(thing) END
$$;

-- What km_before has kept in this transaction: {id: form}.
CREATE FUNCTION km_kept() RETURNS jsonb LANGUAGE sql STABLE
	RETURN coalesce(nullif(current_setting('km.before', true), ''), '{}')::jsonb;

-- Locks the thing and keeps its form for km_change in the same transaction.
CREATE FUNCTION km_before(entity text, thing uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	found_one boolean;
BEGIN
	EXECUTE format('SELECT true FROM %I WHERE id = $1 FOR UPDATE', entity || 's') INTO found_one USING thing;
	PERFORM km_must_find(found_one, format('no such %s', entity));
	PERFORM set_config('km.before', (km_kept() || jsonb_build_object(thing, km_json(entity, thing)))::text, true);
END $$;

-- Records a change as the next revision and wakes every controld. Must be the last thing that a
-- transaction does: the one row of `revision` stays locked until it ends, so revisions are committed
-- in order and without gaps. Several calls in one transaction take several revisions. An update
-- that clients would not see (only a description, say) takes none. Returns the current revision.
CREATE FUNCTION km_change(entity text, verb text, thing uuid) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	was jsonb := nullif(km_kept() -> thing::text, 'null');
	now_ jsonb := CASE WHEN verb <> 'delete' THEN km_json(entity, thing) END;
	r bigint;
BEGIN
	IF verb = 'update' AND was IS NOT DISTINCT FROM now_ THEN
		RETURN (SELECT value FROM revision);
	END IF;
	UPDATE revision SET value = value + 1 RETURNING value INTO r;
	INSERT INTO changes (revision, entity, verb, id, payload, old, agents) VALUES (r, entity, verb, thing, now_, was,
		(SELECT coalesce(array_agg(DISTINCT x), '{}') FROM unnest(ARRAY[(was->>'agentId')::uuid, (now_->>'agentId')::uuid]) x
			WHERE x IS NOT NULL));
	PERFORM pg_notify('km_changes', r::text);
	RETURN r;
END $$;
