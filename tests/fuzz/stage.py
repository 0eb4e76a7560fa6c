# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where two requests meet: users with devices, a pusher and rules, and what is left of them."""

import secrets
from typing import Any
from urllib.parse import urlencode

import attr

from demo.client import Session
from tests.harness.cluster import Cluster
from tests.harness.deployment import Deployment
from tests.harness.pool_access import PATH
from tests.harness.waiting import wait_until
from tests.server.helpers import rule, set_pusher
from tests.server.own_settings_helpers import switch

TAGS = ["phone", "global"]


@attr.s(auto_attribs=True, frozen=True)
class Setting:
    """What there is before two requests meet.

    Attributes:
        pair: the names of the two.
        there: whether the phone has its pusher; or where own settings are concerned, those.
        concerns_own: whether own settings are.
    """

    pair: tuple[str, str]
    there: bool
    concerns_own: bool = False


@attr.s(auto_attribs=True)
class Stage:
    """Alice with a phone and a desktop, Bob on the same phone, a room: all new for each race."""

    deployment: Deployment
    pushkey: str
    phone: Session
    desktop: Session
    bob: Session | None = None
    room: str = "!room:synapse.test"
    sessions: list[Session] = attr.ib(factory=list)

    def at_once(self, who: str) -> Session:
        """Another session of a device, for a thread of its own."""
        self.sessions.append(self.deployment.direct(getattr(self, who)))
        return self.sessions[-1]

    @property
    def users(self) -> dict[str, str]:
        """Their ids, each with a name that is the same in each race."""
        bob = {self.bob.user_id: "bob"} if self.bob else {}
        return {self.phone.user_id: "alice", **bob}

    def close(self) -> None:
        for session in (self.phone, self.desktop, self.bob, *self.sessions):
            if session is not None:
                session.close()


def new_stage(deployment: Deployment, setting: Setting) -> Stage:
    """A stage, with what one of the two requests is about."""
    phone = deployment.register(device_id="PHONE")
    key, desktop = f"key-{secrets.token_hex(6)}", deployment.login(phone, "DESKTOP")
    stage = Stage(deployment, key, phone, desktop)
    if any("another account" in way for way in setting.pair):
        stage.bob = deployment.register(device_id="PHONE")
    if "room upgrade" in setting.pair:
        stage.room = phone.create_room(room_version="10")
    if setting.concerns_own:
        _give_own(stage, on=setting.there)
    else:
        phone.put_rule("phone", "room", stage.room, rule("room", []))
        if setting.there:
            set_pusher(phone, stage.pushkey, profile_tags=TAGS)
    deployment.settle()
    return stage


def _give_own(stage: Stage, *, on: bool) -> None:
    """Rules in `global` and in the device's scope, one of the same name, and own settings."""
    phone = stage.at_once("phone")  # Which does not wait for all processes after each of them.
    set_pusher(phone, stage.pushkey)
    phone.put_rule("PHONE", "override", "both", rule("override", []))
    phone.put_rule("PHONE", "override", "kept", rule("override", []))
    phone.put_rule("global", "override", "both", rule("override"))
    phone.put_rule("global", "override", "copied", rule("override"))
    phone.put_rule("global", "room", stage.room, rule("room", []))
    if on:
        switch(phone, on=True)


def plain(value: Any, stage: Stage) -> Any:
    """What was seen, without the names that differ from race to race."""
    names = {stage.pushkey: "key", stage.room: "room", **stage.users}
    if isinstance(value, dict):
        return tuple(
            sorted((str(plain(k, stage)), plain(v, stage)) for k, v in value.items() if k != "ts")
        )
    if isinstance(value, list | tuple):
        return tuple(plain(one, stage) for one in value)
    if isinstance(value, str) and value.startswith("!") and value != stage.room:
        return "new room"
    return names.get(value, value) if isinstance(value, str) else value


# What is left


def end_of(stage: Stage, setting: Setting) -> Any:
    """What is stored of the pushers, tags, rules and own settings, and what runs."""
    deployment = stage.deployment
    deployment.settle()
    pushers = deployment.sql(
        "SELECT user_name, device_id, COALESCE(enabled, TRUE) FROM pushers WHERE pushkey = ?",
        [stage.pushkey],
    )
    tags = deployment.sql(
        "SELECT user_id, profile_tags FROM synapse_msc3881_pusher_tags WHERE pushkey = ?",
        [stage.pushkey],
    )
    stored = [[user, device, bool(enabled)] for user, device, enabled in pushers]
    # As they come first: which number says so does not matter.
    rules = [row for user_id in stage.users for row in _rules_of(deployment, user_id)]
    ends = [sorted(plain(rows, stage), key=repr) for rows in (stored, tags, running(stage))]
    if setting.concerns_own:
        ends += [sorted(plain(rows, stage), key=repr) for rows in _own_of(stage)]
        wait_until(lambda: _goes_by_own(stage), f"pushers of {setting} going by own settings")
    return (tuple(map(tuple, ends)), plain(rules, stage))


def _rules_of(deployment: Deployment, user_id: str) -> list[tuple[Any, ...]]:
    return deployment.sql(
        "SELECT user_id, profile_tag, kind, rule_id, actions, enabled"
        " FROM synapse_msc3881_device_rules WHERE user_id = ?"
        " ORDER BY profile_tag, kind, priority DESC",
        [user_id],
    )


def _own_of(stage: Stage) -> list[list[tuple[Any, ...]]]:
    """Whose own settings there are, what stays of them, and the account's `global`."""
    alice, sql = [stage.phone.user_id], stage.deployment.sql
    in_global = sql("SELECT rule_id, actions FROM push_rules WHERE user_name = ?", alice)
    enabled = sql("SELECT rule_id, enabled FROM push_rules_enable WHERE user_name = ?", alice)
    return [
        sql(
            "SELECT device_id, default_rules FROM synapse_msc3881_own_settings WHERE user_id = ?",
            alice,
        ),
        sql(
            "SELECT profile_tag, kind, rule_id FROM synapse_msc3881_kept_rules WHERE user_id = ?",
            alice,
        ),
        [(*tuple(name.split("/")[1:]), value) for name, value in (*in_global, *enabled)],
    ]


def _goes_by_own(stage: Stage) -> bool:
    """Whether what runs without tags goes by own settings, where there are any.

    Once there are none, what ran goes on as it did: nothing is recorded for it any more.
    """
    on = stage.deployment.sql(
        "SELECT 1 FROM synapse_msc3881_own_settings WHERE user_id = ?", [stage.phone.user_id]
    )
    return not on or all(own == "PHONE" for own in _asked(stage, "own"))


# Inside the processes


def running(stage: Stage) -> list[Any]:
    """The users whose pushers run for the pushkey, each with the tags."""
    return _asked(stage, "running")


def _asked(stage: Stage, what: str) -> list[Any]:
    asked = {"pushkey": stage.pushkey}
    return [
        one for url in processes(stage.deployment) for one in ask_pool(url, "GET", **asked)[what]
    ]


def processes(deployment: Deployment) -> list[str]:
    """The base URL of each process that may run pushers."""
    if isinstance(deployment, Cluster):
        ports = deployment.homeserver.replication_ports
        return [f"http://127.0.0.1:{port}" for port in ports.values()]
    return [deployment.homeserver.base_url]


def ask_pool(url: str, method: str, **arguments: str) -> Any:
    session = Session(route=lambda *_: url)
    try:
        return session.call(method, f"{PATH}?{urlencode(arguments)}", token=False)
    finally:
        session.close()
