-- SPDX-License-Identifier: MIT
-- The bundle that a CA has signed last. Where the CA is offline the newest one may bear no signature yet;
-- hosts that know nothing need one that does.
ALTER TABLE trust
	ADD signed_number bigint NOT NULL DEFAULT 0,
	ADD signed_bundle text NOT NULL DEFAULT '';
UPDATE trust SET signed_number = number, signed_bundle = bundle WHERE signed;
