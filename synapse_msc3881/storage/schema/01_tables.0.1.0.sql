-- SPDX-License-Identifier: AGPL-3.0-or-later
-- The push rules of the device scopes (MSC3837). The higher the priority, the earlier a rule
-- comes in its kind. Conditions and actions are JSON.
CREATE TABLE IF NOT EXISTS synapse_msc3881_device_rules (
    user_id TEXT NOT NULL,
    profile_tag TEXT NOT NULL,
    kind TEXT NOT NULL,
    rule_id TEXT NOT NULL,
    priority INTEGER NOT NULL,
    conditions TEXT NOT NULL,
    actions TEXT NOT NULL,
    enabled SMALLINT NOT NULL DEFAULT 1,
    PRIMARY KEY (user_id, profile_tag, kind, rule_id)
);

-- The profile tags of the pushers that have other tags than ["global"]: a JSON list.
CREATE TABLE IF NOT EXISTS synapse_msc3881_pusher_tags (
    user_id TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    profile_tags TEXT NOT NULL,
    PRIMARY KEY (user_id, app_id, pushkey)
);
