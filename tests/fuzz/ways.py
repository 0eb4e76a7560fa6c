# SPDX-License-Identifier: AGPL-3.0-or-later
"""The requests that meet each other, and how often each pair does.

Those about pushers and their tags, and the rules of a scope; and those about a device's own
settings (specification 9).
"""

from collections.abc import Callable, Mapping
from typing import Any

import attr

from demo.client import JsonDict, Session, path, rules_path
from demo.homeserver import PASSWORD
from tests.fuzz.stage import TAGS, Stage, ask_pool, plain, processes
from tests.harness.cluster import Cluster
from tests.server.helpers import APP, pusher, rule
from tests.server.own_settings_helpers import own_path

Answer = tuple[int, Any]
Way = Callable[[Stage], Answer]

_LOGGED_OUT = "No row found (access_tokens)"


def answer(session: Session, method: str, where: str, body: Any = None) -> Answer:
    response = session.request(method, where, body)
    if response.status == 404 and _LOGGED_OUT in response.json["error"]:
        # Synapse's own answer where the token goes while it is being looked at; also in `global`.
        return 401, None
    return response.status, response.json if method == "GET" else None


# Pushers, devices and accounts


def set_by(who: str, **fields: Any) -> Way:
    def act(stage: Stage) -> Answer:
        body = {**pusher(stage.pushkey), **fields}
        return answer(stage.at_once(who), "POST", path("pushers", "set"), body)

    return act


def post(who: str, where: str, body: JsonDict | None = None) -> Way:
    def act(stage: Stage) -> Answer:
        return answer(stage.at_once(who), "POST", where, body or {})

    return act


def with_password(who: str, method: str, where: str, **fields: Any) -> Way:
    def act(stage: Stage) -> Answer:
        session = stage.at_once(who)
        identifier = {"type": "m.id.user", "user": session.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        return answer(session, method, where, {"auth": auth, **fields})

    return act


def get(who: str, where: str) -> Way:
    def act(stage: Stage) -> Answer:
        status, body = answer(stage.at_once(who), "GET", where)
        return status, plain(body, stage)

    return act


def upgrade(stage: Stage) -> Answer:
    where = path("rooms", stage.room, "upgrade")
    status = stage.at_once("desktop").request("POST", where, {"new_version": "11"}).status
    return status, None


def reject(stage: Stage) -> Answer:
    """As the pusher does whose gateway says that the pushkey is no longer valid."""
    user_id = stage.phone.user_id
    url = processes(stage.deployment)[0]
    if isinstance(stage.deployment, Cluster):
        ports = stage.deployment.homeserver.replication_ports
        url = f"http://127.0.0.1:{ports[stage.deployment.pusher_of(stage.phone)]}"
    ask_pool(url, "PUT", app_id=APP, pushkey=stage.pushkey, user_id=user_id)
    return 200, None


# Rules


def write(who: str, method: str, scope: str, *name: str, body: Any = None) -> Way:
    """Write or delete a rule, or part of one; "ROOM" in its name is the room."""

    def act(stage: Stage) -> Answer:
        parts = [stage.room if part == "ROOM" else part for part in name]
        return answer(stage.at_once(who), method, rules_path(scope, *parts), body)

    return act


def switching(on: bool) -> Way:
    def act(stage: Stage) -> Answer:
        return answer(stage.at_once("desktop"), "PUT", own_path("PHONE"), {"enabled": on})

    return act


def read_names(stage: Stage) -> Answer:
    """What the phone reads: the names of the rules, in each scope, and which are on."""
    status, body = answer(stage.at_once("phone"), "GET", path("pushrules", ""))
    if status != 200:
        return status, None
    scopes = {"global": body["global"], **body.get("device", {})}
    names = {
        f"{scope} {kind}": [[each["rule_id"], each["enabled"]] for each in rules]
        for scope, kinds in scopes.items()
        for kind, rules in kinds.items()
    }
    return status, plain(names, stage)


OF_PUSHERS: Mapping[str, Way] = {
    "set": set_by("phone", profile_tags=TAGS),
    "set other tags": set_by("phone", profile_tags=["desk"], append=True),
    "set without tags": set_by("phone"),
    "off from the desktop": set_by(
        "desktop", profile_tags=TAGS, enabled=False, **{"org.matrix.msc3881.enabled": False}
    ),
    "set by another account": set_by("bob", profile_tags=["bob"]),
    "set by another account beside": set_by("bob", append=True),
    "kind null": set_by("phone", kind=None),
    "logout": post("phone", path("logout")),
    "logout of all": post("desktop", path("logout", "all")),
    "rejected pushkey": reject,
    "device deletion": with_password("desktop", "DELETE", path("devices", "PHONE")),
    "password change": with_password(
        "desktop", "POST", path("account", "password"), new_password="other", logout_devices=True
    ),
    "deactivation": with_password("desktop", "POST", path("account", "deactivate")),
    "get pushers": get("desktop", path("pushers")),
    "get rules": get("desktop", path("pushrules", "device", "")),
    "put rule": write("desktop", "PUT", "phone", "room", "ROOM", body=rule("room", ["notify"])),
    "delete rule": write("desktop", "DELETE", "phone", "room", "ROOM"),
    "room upgrade": upgrade,
}

_NEW = rule("override", ["dont_notify"])

OF_OWN: Mapping[str, Way] = {
    "switch on": switching(on=True),
    "switch off": switching(on=False),
    "phone writes to global": write("phone", "PUT", "global", "override", "new", body=_NEW),
    "phone deletes in global": write("phone", "DELETE", "global", "room", "ROOM"),
    "phone sets the master rule": write(
        "phone", "PUT", "global", "override", ".m.rule.master", "enabled", body={"enabled": True}
    ),
    "phone reads": read_names,
    "desktop writes to global": write("desktop", "PUT", "global", "override", "new", body=_NEW),
    "desktop deletes in global": write("desktop", "DELETE", "global", "override", "both"),
    "desktop writes to the scope": write("desktop", "PUT", "PHONE", "override", "new", body=_NEW),
    "desktop deletes in the scope": write("desktop", "DELETE", "PHONE", "override", "both"),
}

WAYS: Mapping[str, Way] = {**OF_PUSHERS, **OF_OWN}

#: These are Synapse's own, and no business of the module when they meet each other.
SYNAPSES = {
    "logout",
    "logout of all",
    "device deletion",
    "password change",
    "deactivation",
    "room upgrade",
}

#: What writes or removes a pusher, which is where most can go wrong: these meet more often.
WRITES = {
    "set",
    "set other tags",
    "off from the desktop",
    "set by another account",
    "kind null",
    "logout",
    "rejected pushkey",
    "device deletion",
}


@attr.s(auto_attribs=True, frozen=True)
class Pairs:
    """Which requests meet, and how often each pair does."""

    names: list[tuple[str, str]]
    weights: list[int]


def _of_pushers() -> Pairs:
    pairs = [
        (one, other)
        for number, one in enumerate(OF_PUSHERS)
        for other in list(OF_PUSHERS)[number:]
        if not {one, other} <= SYNAPSES
    ]
    return Pairs(pairs, [8 if set(pair) <= WRITES else 1 for pair in pairs])


def _of_own() -> Pairs:
    own = list(OF_OWN)
    pairs = [(one, other) for number, one in enumerate(own) for other in own[number:]]
    # Those who only read are answered in the middle of what Synapse does step by step.
    writes = [name for name in own if name != "phone reads"]
    pairs += [
        (one, other) for one in writes for other in ("logout", "device deletion", "room upgrade")
    ]
    switches = ("switch on", "switch off")
    pairs += [(one, other) for one in switches for other in ("set without tags", "get pushers")]
    pairs += [("switch on", "deactivation"), ("logout", "room upgrade")]
    return Pairs(pairs, [6 if set(pair) & set(switches) else 1 for pair in pairs])


PAIRS, OWN_PAIRS = _of_pushers(), _of_own()
