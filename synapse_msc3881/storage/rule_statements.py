# SPDX-License-Identifier: AGPL-3.0-or-later
"""The statements about single device rules, each run in the caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attr
from synapse.module_api.errors import RuleNotFoundException

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction


@attr.s(auto_attribs=True, frozen=True, slots=True)
class RuleKey:
    """Which rule of a user is meant."""

    profile_tag: str
    kind: str
    rule_id: str

    @property
    def stream_name(self) -> str:
        """The rule's full name, for the row in Synapse's push rules stream."""
        return f"device/{self.profile_tag}/{self.kind}/{self.rule_id}"


DELETE_ALL = (
    "DELETE FROM synapse_msc3881_own_settings WHERE user_id = ?",
    "DELETE FROM synapse_msc3881_kept_rules WHERE user_id = ?",
    "DELETE FROM synapse_msc3881_device_rules WHERE user_id = ?",
)

_IS_RULE = "user_id = ? AND profile_tag = ? AND kind = ? AND rule_id = ?"


def _args(user_id: str, key: RuleKey) -> tuple[str, str, str, str]:
    return user_id, key.profile_tag, key.kind, key.rule_id


def existing_txn(txn: LoggingTransaction, user_id: str) -> dict[RuleKey, int]:
    """A user's device rules, with the priority of each."""
    txn.execute(
        "SELECT profile_tag, kind, rule_id, CAST(priority AS INTEGER)"
        " FROM synapse_msc3881_device_rules WHERE user_id = ?",
        (user_id,),
    )
    return {RuleKey(tag, kind, rule_id): priority for tag, kind, rule_id, priority in txn}


def exists_txn(txn: LoggingTransaction, user_id: str, key: RuleKey) -> bool:
    """Whether a user has this device rule."""
    txn.execute("SELECT 1 FROM synapse_msc3881_device_rules WHERE " + _IS_RULE, _args(user_id, key))
    return txn.fetchone() is not None


def rules_by_scope_txn(txn: LoggingTransaction, user_id: str) -> dict[str, int]:
    """How many rules each device scope of a user has. Counted there: there may be thousands."""
    txn.execute(
        "SELECT profile_tag, COUNT(*) FROM synapse_msc3881_device_rules WHERE user_id = ?"
        " GROUP BY profile_tag",
        (user_id,),
    )
    return dict(iter(txn))


def upsert_txn(
    txn: LoggingTransaction,
    user_id: str,
    key: RuleKey,
    priority: int,
    conditions: str,
    actions: str,
) -> None:
    """Write a rule, which keeps its `enabled` if it exists already."""
    txn.execute(
        """
        INSERT INTO synapse_msc3881_device_rules
            (user_id, profile_tag, kind, rule_id, priority, conditions, actions)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (user_id, profile_tag, kind, rule_id) DO UPDATE SET
            priority = EXCLUDED.priority,
            conditions = EXCLUDED.conditions,
            actions = EXCLUDED.actions,
            enabled = CASE WHEN synapse_msc3881_device_rules.enabled = 0 THEN 0 ELSE 1 END
        """,
        (*_args(user_id, key), priority, conditions, actions),
    )


def delete_rule_txn(txn: LoggingTransaction, user_id: str, key: RuleKey) -> None:
    """Delete a rule; raises RuleNotFoundException if there is none."""
    txn.execute("DELETE FROM synapse_msc3881_device_rules WHERE " + _IS_RULE, _args(user_id, key))
    _require_one(txn)


def set_enabled_txn(txn: LoggingTransaction, user_id: str, key: RuleKey, enabled: bool) -> None:
    """Turn a rule on or off; raises RuleNotFoundException if there is none."""
    txn.execute(
        "UPDATE synapse_msc3881_device_rules SET enabled = ? WHERE " + _IS_RULE,
        (int(enabled), *_args(user_id, key)),
    )
    _require_one(txn)


def conditions_txn(txn: LoggingTransaction, user_id: str, key: RuleKey) -> str:
    """A rule's conditions in JSON; raises RuleNotFoundException if there is no such rule."""
    txn.execute(
        "SELECT conditions FROM synapse_msc3881_device_rules WHERE " + _IS_RULE,
        _args(user_id, key),
    )
    row = txn.fetchone()
    if row is None:
        raise RuleNotFoundException("Push rule does not exist")
    return str(row[0])


def update_actions_txn(txn: LoggingTransaction, user_id: str, key: RuleKey, actions: str) -> None:
    """Change a rule's actions, in JSON."""
    txn.execute(
        "UPDATE synapse_msc3881_device_rules SET actions = ? WHERE " + _IS_RULE,
        (actions, *_args(user_id, key)),
    )


def own_devices_txn(txn: LoggingTransaction, user_id: str, lock: str = "") -> set[str]:
    """The devices of a user with settings of their own.

    Args:
        txn: the transaction.
        user_id: whose devices.
        lock: what the SELECT ends with; see `seams.key_share_lock`.
    """
    txn.execute(
        "SELECT device_id FROM synapse_msc3881_own_settings WHERE user_id = ?" + lock, (user_id,)
    )
    return {device_id for (device_id,) in txn}


def keep_txn(txn: LoggingTransaction, user_id: str, key: RuleKey) -> None:
    """Have a rule stay when the device's own settings are switched off.

    It was written by someone who means the device scope, not `global`.
    """
    txn.execute(
        """
        INSERT INTO synapse_msc3881_kept_rules (user_id, profile_tag, kind, rule_id)
        VALUES (?, ?, ?, ?)
        ON CONFLICT (user_id, profile_tag, kind, rule_id) DO NOTHING
        """,
        _args(user_id, key),
    )


def keep_copy_txn(txn: LoggingTransaction, user_id: str, copy: RuleKey, copied_from: str) -> None:
    """Have the copy of a rule stay as the rule itself does."""
    txn.execute(
        f"""
        INSERT INTO synapse_msc3881_kept_rules (user_id, profile_tag, kind, rule_id)
        SELECT user_id, profile_tag, kind, ? FROM synapse_msc3881_kept_rules WHERE {_IS_RULE}
        ON CONFLICT (user_id, profile_tag, kind, rule_id) DO NOTHING
        """,
        (copy.rule_id, *_args(user_id, attr.evolve(copy, rule_id=copied_from))),
    )


def forget_kept_txn(txn: LoggingTransaction, user_id: str, key: RuleKey) -> None:
    """Forget that a rule stays, as it is deleted."""
    txn.execute("DELETE FROM synapse_msc3881_kept_rules WHERE " + _IS_RULE, _args(user_id, key))


def _require_one(txn: LoggingTransaction) -> None:
    if txn.rowcount == 0:
        raise RuleNotFoundException("Push rule does not exist")


def make_place_txn(
    txn: LoggingTransaction, user_id: str, key: RuleKey, before: str | None, after: str | None
) -> int:
    """Find the priority for a rule; if it goes between two, those above it move up.

    Raises:
        RuleNotFoundException: there is no rule `before` or `after` in its scope and kind.
    """
    neighbour = before or after
    if not neighbour:
        txn.execute(
            "SELECT MAX(CAST(priority AS INTEGER)) FROM synapse_msc3881_device_rules"
            " WHERE user_id = ? AND profile_tag = ? AND kind = ?",
            (user_id, key.profile_tag, key.kind),
        )
        (highest,) = txn.fetchone() or (None,)
        return 0 if highest is None else highest + 1

    txn.execute(
        "SELECT CAST(priority AS INTEGER) FROM synapse_msc3881_device_rules WHERE " + _IS_RULE,
        (user_id, key.profile_tag, key.kind, neighbour),
    )
    row = txn.fetchone()
    if row is None:
        raise RuleNotFoundException(f"before/after rule not found: {neighbour}")
    # The higher priority comes first; the neighbour that the rule follows moves up with the rest.
    priority: int = row[0] + 1 if before else row[0]
    txn.execute(
        "UPDATE synapse_msc3881_device_rules SET priority = priority + 1"
        " WHERE user_id = ? AND profile_tag = ? AND kind = ? AND priority >= ?",
        (user_id, key.profile_tag, key.kind, priority),
    )
    return priority
