# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a user's pushers and push rules must be, from specification 1, 2, 3 and 6 alone.

It shares nothing with the module. A method returns the status that the server must answer with.
"""

from collections.abc import Iterable
from typing import Any

import attr

from demo.client import JsonDict

KINDS = ("override", "content", "room", "sender", "underride")

TAG_LIMIT = 3
SCOPE_LIMIT = 2

#: The fields of a pusher that are stored as they come.
PLAIN = ("kind", "app_id", "pushkey", "app_display_name", "device_display_name", "lang", "data")


def _decide(stable: Any, unstable: Any, as_read: Any, omitted: Any) -> Any:
    """The echo rule, spelled out; None is a name that was not given."""
    given = [value for value in (stable, unstable) if value is not None]
    if not given:
        return omitted
    if as_read is not None:
        changed = [value for value in given if value != as_read]
        return changed[0] if changed else as_read
    return given[-1]


def _tags(given: list[str] | None) -> list[str] | None:
    return None if given is None else list(dict.fromkeys(given)) or ["global"]


@attr.s(auto_attribs=True)
class Pusher:
    fields: JsonDict
    device_id: str
    enabled: bool
    tags: list[str]

    def shown(self) -> JsonDict:
        return {
            **self.fields,
            "enabled": self.enabled,
            "org.matrix.msc3881.enabled": self.enabled,
            "device_id": self.device_id,
            "org.matrix.msc3881.device_id": self.device_id,
            "profile_tags": self.tags,
            "org.matrix.msc3837.profile_tags": self.tags,
            "org.matrix.msc3881.as_read": {"enabled": self.enabled, "profile_tags": self.tags},
        }


@attr.s(auto_attribs=True)
class Rule:
    rule_id: str
    body: JsonDict
    enabled: bool = True

    def shown(self) -> JsonDict:
        return {"rule_id": self.rule_id, "default": False, "enabled": self.enabled, **self.body}


def _shown_body(kind: str, body: JsonDict) -> JsonDict | None:
    """What is kept of a rule; None where it lacks what its kind needs."""
    needed = {"override": ["conditions"], "underride": ["conditions"], "content": ["pattern"]}
    names = ["actions", *needed.get(kind, [])]
    return {name: body[name] for name in names} if set(names) <= set(body) else None


Order = list[Rule]


@attr.s(auto_attribs=True)
class Rulesets:
    """A user's rules: those of `global` that are the user's own, and the device scopes."""

    scopes: dict[str, dict[str, Order]] = attr.ib(factory=lambda: {"global": _empty()})

    def put(
        self, scope: str, kind: str, rule_id: str, body: JsonDict, before: str, after: str
    ) -> int:
        shown = _shown_body(kind, body)
        is_new_scope = scope not in self.scopes
        # `global` is none of those that are counted.
        if shown is None or (is_new_scope and len(self.scopes) > SCOPE_LIMIT):
            return 400
        order = self.scopes.get(scope, _empty())[kind]
        ids = [rule.rule_id for rule in order]
        neighbour = before or after
        if neighbour and neighbour not in ids:
            return 400
        old = next((rule for rule in order if rule.rule_id == rule_id), None)
        rule = Rule(rule_id, shown, old.enabled if old else True)
        if neighbour == rule_id:
            order[ids.index(rule_id)] = rule
            return 200
        others = [other for other in order if other is not old]
        place = 0
        if neighbour:
            place = [other.rule_id for other in others].index(neighbour) + (0 if before else 1)
        self.scopes.setdefault(scope, _empty())[kind] = [*others[:place], rule, *others[place:]]
        return 200

    def delete(self, scope: str, kind: str, rule_id: str) -> int:
        rule = self.find(scope, kind, rule_id)
        if rule is None:
            return 404
        self.scopes[scope][kind].remove(rule)
        if scope != "global" and not any(self.scopes[scope].values()):
            del self.scopes[scope]
        return 200

    def find(self, scope: str, kind: str, rule_id: str) -> Rule | None:
        rules = self.scopes.get(scope, _empty())[kind]
        return next((rule for rule in rules if rule.rule_id == rule_id), None)

    def shown(self) -> JsonDict:
        """As ``GET /pushrules/`` shows them, without the server's own."""
        rulesets = {
            scope: {kind: [rule.shown() for rule in rules] for kind, rules in kinds.items()}
            for scope, kinds in self.scopes.items()
        }
        in_global = rulesets.pop("global")
        return {"global": in_global, **({"device": rulesets} if rulesets else {})}


def _empty() -> dict[str, Order]:
    return {kind: [] for kind in KINDS}


@attr.s(auto_attribs=True)
class User:
    rules: Rulesets = attr.ib(factory=Rulesets)
    pushers: dict[tuple[str, str], Pusher] = attr.ib(factory=dict)

    def set_pusher(self, body: JsonDict, device_id: str, keep_omitted: bool) -> int:
        names = [
            (_tags(body.get("profile_tags")), _tags(body.get("org.matrix.msc3837.profile_tags"))),
            (body.get("enabled"), body.get("org.matrix.msc3881.enabled")),
        ]
        if any(len(tags or ()) > TAG_LIMIT for tags in names[0]):
            return 400
        key = (body["app_id"], body["pushkey"])
        old = self.pushers.get(key)
        as_read = body.get("org.matrix.msc3881.as_read") or {}
        decided = []
        for (stable, unstable), read, default, stored in (
            (names[0], as_read.get("profile_tags"), ["global"], old.tags if old else None),
            (names[1], as_read.get("enabled"), True, old.enabled if old else None),
        ):
            omitted = default if stored is None or not keep_omitted else stored
            decided.append(_decide(stable, unstable, read, omitted))
        fields = {**{name: body[name] for name in PLAIN}, "profile_tag": body["profile_tag"]}
        self.pushers[key] = Pusher(
            fields, old.device_id if old else device_id, decided[1], decided[0]
        )
        return 200

    def holds_the_phone(self, body: JsonDict, device_id: str) -> bool:
        """Whether a request may remove other users' pushers: it makes it, or is its device's."""
        old = self.pushers.get((body["app_id"], body["pushkey"]))
        return old is None or old.device_id == device_id

    def remove_pusher(self, app_id: str, pushkey: str) -> None:
        self.pushers.pop((app_id, pushkey), None)

    def log_out(self, device_id: str) -> None:
        self.pushers = {
            key: pusher for key, pusher in self.pushers.items() if pusher.device_id != device_id
        }

    def shown_pushers(self) -> list[JsonDict]:
        return by_key(pusher.shown() for pusher in self.pushers.values())


def by_key(pushers: Iterable[JsonDict]) -> list[JsonDict]:
    """Pushers in an order of their own: the server's is not laid down."""
    return sorted(pushers, key=lambda pusher: (pusher["app_id"], pusher["pushkey"]))
