# SPDX-License-Identifier: AGPL-3.0-or-later
"""A homeserver full of users, made in seconds.

Thousands of joins over HTTP would take longer than all that is to be measured. So one user, the
*model*, registers and joins each room over HTTP, the server stops, and the rows that this left in
Synapse's tables are copied for all others, with their names and event ids in the place of the
model's. Like that, the rows are what the running Synapse itself writes.

The database made so is never used itself: each server that is measured starts with a copy.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attr
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.events import make_event_from_dict

from demo.client import Session
from synapse_msc3881.cascade.rulesets import KINDS
from tests.bench.variants import OWN_DEVICE, StoredRule, Use
from tests.harness.deployment import Deployment
from tests.harness.postgres import Postgres

APP = "org.example.bench"

# Rows that a user has, by the column with their name, and a membership, by that with its event.
_OF_A_USER = {"users": "name", "profiles": "full_user_id"}
_OF_A_CURRENT_MEMBER = ("room_memberships", "current_state_events", "local_current_membership")
_OF_A_MEMBERSHIP = ("events", "event_json", "state_events", *_OF_A_CURRENT_MEMBER)

_MODEL = "model"

_PUSHER_COLUMNS = (
    "id",
    "user_name",
    "profile_tag",
    "kind",
    "app_id",
    "app_display_name",
    "device_display_name",
    "pushkey",
    "ts",
    "lang",
    "data",
    "last_stream_ordering",
    "enabled",
)


@attr.s(auto_attribs=True, frozen=True)
class RoomPlan:
    """A room to be made.

    Attributes:
        name: by which it is found again.
        members: how many local users are joined to it, the sender among them. The others are in
            no other room.
    """

    name: str
    members: int


@attr.s(auto_attribs=True, frozen=True)
class Room:
    """A room, with its members except for the one who sends."""

    room_id: str
    members: Sequence[str]


@attr.s(auto_attribs=True, frozen=True)
class Population:
    """A stopped server, to be copied.

    Attributes:
        deployment: whose data to copy.
        sender: a member of all rooms.
        rooms: by their names.
        upto: the stream ordering of the newest event.
    """

    deployment: Deployment
    sender: Session
    rooms: Mapping[str, Room]
    upto: int

    @property
    def users(self) -> list[str]:
        """All members of all rooms, without the sender."""
        return [user for room in self.rooms.values() for user in room.members]


def populate(
    kind: str, directory: Path, postgres: Postgres | None, plans: Sequence[RoomPlan]
) -> Population:
    """Make users and rooms.

    Args:
        kind: "sqlite" or "postgres".
        directory: for the server's data.
        postgres: where to make the database; not needed for "sqlite".
        plans: the rooms.
    """
    # With the module, so that its tables are there; a vanilla Synapse does not look at them.
    deployment = Deployment(kind=kind, directory=directory, postgres=postgres).start()
    try:
        sender, model = deployment.register("sender"), deployment.register(_MODEL)
        room_ids = []
        for plan in plans:
            # With a name, as most rooms have that are not small: to find one for a push, Synapse
            # looks at the members.
            room_ids.append(sender.create_room(preset="public_chat", name=plan.name))
            model.join(room_ids[-1])
    finally:
        deployment.homeserver.stop()
    writer = _Writer(deployment, model.user_id)
    rooms = {
        plan.name: Room(room_id, writer.add_members(room_id, plan.members - 1))
        for plan, room_id in zip(plans, room_ids, strict=True)
    }
    writer.finish()
    return Population(deployment, sender, rooms, writer.ordering)


class _Writer:
    def __init__(self, deployment: Deployment, model: str) -> None:
        self._deployment = deployment
        self._model = model
        self._columns: dict[str, list[str]] = {}
        self._users = 0
        ((self.ordering,),) = deployment.sql("SELECT MAX(stream_ordering) FROM events")

    def add_members(self, room_id: str, count: int) -> list[str]:
        """Put new users in the model's place in a room; returns their user ids."""
        numbers = range(self._users, self._users + count)
        self._users += count
        names = [f"user-{number:05d}" for number in numbers]
        for table, column in _OF_A_USER.items():
            self._copy(table, column, self._model, ({_MODEL: name} for name in names))
        ((event_id, event, version),) = self._deployment.sql(
            "SELECT event_id, json, room_version FROM current_state_events"
            " INNER JOIN event_json USING (event_id) INNER JOIN rooms ON"
            " rooms.room_id = current_state_events.room_id"
            " WHERE current_state_events.room_id = ? AND state_key = ?",
            [room_id, self._model],
        )
        first, self.ordering = self.ordering + 1, self.ordering + count
        user_ids = [self._model.replace(_MODEL, name) for name in names]
        changes = [
            {
                self._model: user_id,
                _MODEL: name,
                event_id: _event_id(event.replace(_MODEL, name), version),
                "ordering": first + n,
            }
            for n, (name, user_id) in enumerate(zip(names, user_ids, strict=True))
        ]
        for table in _OF_A_MEMBERSHIP:
            self._copy(table, "event_id", event_id, changes)
        for table in _OF_A_CURRENT_MEMBER:
            self._deployment.sql(f"DELETE FROM {table} WHERE event_id = ?", [event_id])
        return user_ids

    def finish(self) -> None:
        """Have Synapse go on after what was written here."""
        self._deployment.sql(
            "UPDATE federation_stream_position SET stream_id = ? WHERE type = 'events'",
            [self.ordering],
        )
        if self._deployment.kind != "sqlite":
            self._deployment.sql("SELECT setval('events_stream_seq', ?)", [self.ordering])
            # Or else PostgreSQL plans for the empty tables that it knew.
            self._deployment.sql("ANALYZE")

    def _copy(
        self, table: str, column: str, value: str, changes: Iterable[Mapping[str, Any]]
    ) -> None:
        """Copy the row with that value for each of the changes: old strings and their new ones."""
        columns = self._columns_of(table)
        (row,) = self._deployment.sql(
            f"SELECT {', '.join(columns)} FROM {table} WHERE {column} = ?", [value]
        )
        self._deployment.insert(
            table, columns, ([*_changed(columns, row, change)] for change in changes)
        )

    def _columns_of(self, table: str) -> list[str]:
        if table not in self._columns:
            self._columns[table] = columns_of(self._deployment, table)
        return self._columns[table]


def _event_id(event: str, version: str) -> str:
    """The id of an event in JSON: Synapse makes sure that it is the event's hash."""
    return make_event_from_dict(json.loads(event), KNOWN_ROOM_VERSIONS[version]).event_id


def columns_of(deployment: Deployment, table: str) -> list[str]:
    """The names of a table's columns."""
    rows = deployment.sql(
        "SELECT name FROM pragma_table_info(?)"
        if deployment.kind == "sqlite"
        else "SELECT column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = ?",
        [table],
    )
    return [name for (name,) in rows]


def _changed(
    columns: Sequence[str], row: Sequence[Any], change: Mapping[str, Any]
) -> Iterator[Any]:
    for column, old in zip(columns, row, strict=True):
        value = old
        if column.endswith("stream_ordering") and value is not None:
            value = change["ordering"]
        elif isinstance(value, str):
            for before, after in change.items():
                if before != "ordering":
                    value = value.replace(before, after)
        elif isinstance(value, dict):  # jsonb
            value = json.dumps(value)
        yield value


def add_pushers(
    deployment: Deployment, users: Iterable[str], upto: int, url: str, enabled: bool
) -> None:
    """Give each of the users a pusher.

    Args:
        deployment: prepared, and not started.
        users: whose.
        upto: the stream ordering from which on they push.
        url: the gateway's.
        enabled: whether they run.
    """
    ((first,),) = deployment.sql("SELECT COALESCE(MAX(id), 0) + 1 FROM pushers")
    is_on = enabled if deployment.kind != "sqlite" else int(enabled)
    data = json.dumps({"url": url})
    deployment.insert(
        "pushers",
        _PUSHER_COLUMNS,
        (
            (first + n, user, "", "http", APP, "A", "A", pushkey(user), 0, "en", data, upto, is_on)
            for n, user in enumerate(users)
        ),
    )


def pushkey(user_id: str) -> str:
    """The key of a user's pusher."""
    return f"key-{user_id}"


def add_use(deployment: Deployment, users: Sequence[str], use: Use, room_id: str) -> None:
    """Have users, who have pushers, use profile tags and device rules.

    Args:
        deployment: prepared, and not started.
        users: whose.
        use: which tags and rules.
        room_id: the room that a `room` rule is to match.
    """
    rules = [(user, rule) for user in users for rule in use.rules(user, room_id)]
    if use.in_global:
        _add_global_rules(deployment, rules)
        return
    if use.own_settings:
        _give_own_settings(deployment, users)
    else:
        tags = json.dumps(use.tags)
        deployment.insert(
            "synapse_msc3881_pusher_tags",
            ("user_id", "app_id", "pushkey", "profile_tags"),
            ((user, APP, pushkey(user), tags) for user in users),
        )
    columns = [field.name for field in attr.fields(StoredRule)]
    deployment.insert(
        "synapse_msc3881_device_rules",
        ("user_id", *columns),
        ((user, *attr.astuple(rule)) for user, rule in rules),
    )


def _give_own_settings(deployment: Deployment, users: Sequence[str]) -> None:
    no = False if deployment.kind != "sqlite" else 0
    deployment.insert(
        "devices",
        ("user_id", "device_id", "hidden"),
        ((user, OWN_DEVICE, no) for user in users),
    )
    deployment.insert(
        "synapse_msc3881_own_settings",
        ("user_id", "device_id", "default_rules"),
        ((user, OWN_DEVICE, "{}") for user in users),
    )
    deployment.sql(
        "UPDATE pushers SET device_id = ? WHERE user_name IN"
        " (SELECT user_id FROM synapse_msc3881_own_settings)",
        [OWN_DEVICE],
    )


def _add_global_rules(deployment: Deployment, rules: Iterable[tuple[str, StoredRule]]) -> None:
    rows = [
        (
            user,
            f"global/{rule.kind}/{rule.rule_id}",
            KINDS[rule.kind],
            rule.priority,
            rule.conditions,
            rule.actions,
        )
        for user, rule in rules
    ]
    ((first,),) = deployment.sql("SELECT COALESCE(MAX(id), 0) + 1 FROM push_rules")
    deployment.insert(
        "push_rules",
        ["id", "user_name", "rule_id", "priority_class", "priority", "conditions", "actions"],
        ((number, *row) for number, row in enumerate(rows, first)),
    )
