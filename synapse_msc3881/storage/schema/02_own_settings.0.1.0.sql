-- SPDX-License-Identifier: AGPL-3.0-or-later
-- The devices with settings of their own (specification 9). Their rules are device rules whose
-- profile tag is the device's id. What is changed of the server-default rules stands here: a JSON
-- object of "kind/rule_id", each with "actions", "enabled" or both.
CREATE TABLE IF NOT EXISTS synapse_msc3881_own_settings (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    default_rules TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- The rules of those scopes that stay when the device's own settings are switched off.
CREATE TABLE IF NOT EXISTS synapse_msc3881_kept_rules (
    user_id TEXT NOT NULL,
    profile_tag TEXT NOT NULL,
    kind TEXT NOT NULL,
    rule_id TEXT NOT NULL,
    PRIMARY KEY (user_id, profile_tag, kind, rule_id)
);
