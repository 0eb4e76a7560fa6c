# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a user's pushers and push rules must be, from specification 1, 2, 3, 6 and 9 alone.

It shares nothing with the module. A method returns the status that the server must answer with.
"""

import copy
from collections.abc import Iterable
from typing import Any

import attr

from demo.client import JsonDict

KINDS = ("override", "content", "room", "sender", "underride")

TAG_LIMIT = 3
SCOPE_LIMIT = 3

MASTER = ".m.rule.master"

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

    def goes_by_own(self, own: Iterable[str]) -> bool:
        """Whether it goes by its device's own settings, if those devices have some."""
        return self.device_id in own and self.tags == ["global"]

    def shown(self, own: Iterable[str]) -> JsonDict:
        by_own = self.goes_by_own(own)
        tags = [self.device_id] if by_own else self.tags
        as_read = {"enabled": self.enabled, "profile_tags": tags}
        return {
            **self.fields,
            "enabled": self.enabled,
            "org.matrix.msc3881.enabled": self.enabled,
            "device_id": self.device_id,
            "org.matrix.msc3881.device_id": self.device_id,
            "profile_tags": tags,
            "org.matrix.msc3837.profile_tags": tags,
            "org.matrix.msc3881.as_read": {**as_read, **({"own": True} if by_own else {})},
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


def _about(rule: Rule, kind: str, old: str, new: str) -> JsonDict | None:
    """The body of a rule about a room, made one about another; None if it is about none."""
    if kind == "room":
        return rule.body if rule.rule_id == old else None
    conditions = rule.body.get("conditions", [])
    if not any((c.get("key"), c.get("pattern")) == ("room_id", old) for c in conditions):
        return None
    return {
        **rule.body,
        "conditions": [
            {**c, "pattern": new} if c.get("key") == "room_id" else c for c in conditions
        ],
    }


Order = list[Rule]


@attr.s(auto_attribs=True)
class Own:
    """What there is of a device's own settings beside the rules in its scope.

    Attributes:
        kept: which of its rules stay when they are switched off, by kind and id.
    """

    kept: set[tuple[str, str]]


@attr.s(auto_attribs=True)
class DefaultChange:
    """What is changed of a server-default rule; None where it is as the server has it."""

    actions: list[Any] | None = None
    enabled: bool | None = None


Defaults = dict[tuple[str, str], DefaultChange]


@attr.s(auto_attribs=True)
class Rulesets:
    """A user's rules: those of `global` that are the user's own, and the device scopes.

    Attributes:
        scopes: the user's own rules.
        own: the devices with settings of their own.
        defaults: what is changed of the server-default rules, in the account's `global` and in
            that of each such device.
    """

    scopes: dict[str, dict[str, Order]] = attr.ib(factory=lambda: {"global": _empty()})
    own: dict[str, Own] = attr.ib(factory=dict)
    defaults: dict[str, Defaults] = attr.ib(factory=lambda: {"global": {}})

    def meant(self, device_id: str, scope: str) -> str:
        """The scope that a device's request is about."""
        return device_id if scope == "global" and device_id in self.own else scope

    def has_room_for(self, scope: str) -> bool:
        # `global` is none of those that are counted.
        taken = {*self.scopes, *self.own} - {"global"}
        return scope in {*taken, "global"} or len(taken) < SCOPE_LIMIT

    def switch(self, device_id: str, on: bool) -> int:
        if on == (device_id in self.own):
            return 200
        if not on:
            self._switch_off(device_id)
            return 200
        if not self.has_room_for(device_id):
            return 400
        there = self.scopes.get(device_id, _empty())
        kept = {(kind, rule.rule_id) for kind, rules in there.items() for rule in rules}
        copies = {
            kind: [copy.copy(rule) for rule in rules if (kind, rule.rule_id) not in kept]
            for kind, rules in self.scopes["global"].items()
        }
        self._set(device_id, {kind: [*there[kind], *copies[kind]] for kind in KINDS})
        self.own[device_id] = Own(kept)
        self.defaults[device_id] = copy.deepcopy(self.defaults["global"])
        return 200

    def _switch_off(self, device_id: str) -> None:
        kept = self.own.pop(device_id).kept
        del self.defaults[device_id]
        there = self.scopes.get(device_id, _empty())
        stays = {
            kind: [rule for rule in rules if (kind, rule.rule_id) in kept]
            for kind, rules in there.items()
        }
        self._set(device_id, stays)

    def log_out(self, device_id: str) -> None:
        if device_id in self.own:
            self.own[device_id].kept.clear()
            self._switch_off(device_id)

    def _set(self, scope: str, kinds: dict[str, Order]) -> None:
        """Replace a scope. One that has no rules is none, but for `global`."""
        self.scopes[scope] = kinds
        if scope != "global" and not any(kinds.values()):
            del self.scopes[scope]

    def wrote_to(self, scope: str, kind: str, rule_id: str) -> None:
        """A rule was written to a device scope by that name, and so stays."""
        if scope in self.own:
            self.own[scope].kept.add((kind, rule_id))

    def upgrade_room(self, old: str, new: str) -> None:
        for scope, kinds in self.scopes.items():
            kept = self.own[scope].kept if scope in self.own else set()
            for kind, rules in kinds.items():
                for rule in list(rules):
                    body = _about(rule, kind, old, new) if rule.enabled else None
                    if body is None:
                        continue
                    self.put(scope, kind, new, body, "", "")
                    kept -= {(kind, new)}
                    if (kind, rule.rule_id) in kept:
                        kept.add((kind, new))

    def change_default(self, scope: str, rule: tuple[str, str], attribute: str, value: Any) -> None:
        """Change the `enabled` or the `actions` of a server-default rule."""
        change = self.defaults[scope].setdefault(rule, DefaultChange())
        if attribute == "enabled":
            change.enabled = value
        else:
            change.actions = value
            # As Synapse has it in `global`: one that gets other actions is switched on.
            change.enabled = True if change.enabled is None else change.enabled

    def delete_default(self, scope: str, rule: tuple[str, str]) -> int:
        """Delete what is changed of a server-default rule, where its actions are."""
        change = self.defaults[scope].get(rule)
        if change is None or change.actions is None:
            return 404
        del self.defaults[scope][rule]
        return 200

    def put(
        self, scope: str, kind: str, rule_id: str, body: JsonDict, before: str, after: str
    ) -> int:
        shown = _shown_body(kind, body)
        if shown is None or not self.has_room_for(scope):
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
        self._set(scope, self.scopes[scope])
        if scope in self.own:
            self.own[scope].kept.discard((kind, rule_id))
        return 200

    def find(self, scope: str, kind: str, rule_id: str) -> Rule | None:
        rules = self.scopes.get(scope, _empty())[kind]
        return next((rule for rule in rules if rule.rule_id == rule_id), None)

    def shown(self, device_id: str, untouched: JsonDict) -> JsonDict:
        """As ``GET /pushrules/`` shows them to a device.

        Args:
            device_id: the device that asks.
            untouched: `global`, as the server shows it to a user who has changed nothing.
        """
        rulesets = {
            scope: {kind: [rule.shown() for rule in rules] for kind, rules in kinds.items()}
            for scope, kinds in self.scopes.items()
        }
        scope = self.meant(device_id, "global")
        users = rulesets.get(scope, {})
        in_global = {}
        for kind, defaults in untouched.items():
            changed = [
                self._shown_default(default, self.defaults[scope].get((kind, default["rule_id"])))
                for default in defaults
            ]
            first = [default for default in changed if default["rule_id"] == MASTER]
            last = [default for default in changed if default["rule_id"] != MASTER]
            in_global[kind] = [*first, *users.get(kind, []), *last]
        del rulesets["global"]
        return {"global": in_global, **({"device": rulesets} if rulesets else {})}

    @staticmethod
    def _shown_default(default: JsonDict, change: DefaultChange | None) -> JsonDict:
        shown = dict(default)
        if change is not None and change.actions is not None:
            shown["actions"] = change.actions
        if change is not None and change.enabled is not None:
            shown["enabled"] = change.enabled
        return shown


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
        as_read = body.get("org.matrix.msc3881.as_read")
        read = as_read or {}
        stored = old if keep_omitted else None
        tags = _decide(*names[0], read.get("profile_tags"), None)
        if tags is None:
            tags = stored.tags if stored else ["global"]
        elif self._is_no_choice(tags, as_read, old):
            tags = ["global"]
        enabled = _decide(*names[1], read.get("enabled"), stored.enabled if stored else True)
        fields = {**{name: body[name] for name in PLAIN}, "profile_tag": body["profile_tag"]}
        self.pushers[key] = Pusher(fields, old.device_id if old else device_id, enabled, tags)
        return 200

    def _is_no_choice(self, tags: list[str], as_read: JsonDict | None, old: Pusher | None) -> bool:
        """Whether a client only sends back what its device's own settings come to."""
        if as_read is not None:
            return bool(as_read.get("own")) and tags == as_read["profile_tags"]
        return old is not None and old.goes_by_own(self.rules.own) and tags == [old.device_id]

    def put_rule(
        self, device_id: str, where: tuple[str, str, str], body: JsonDict, before: str, after: str
    ) -> int:
        """A device writes a rule, whose scope, kind and id are as it names them."""
        scope, kind, rule_id = where
        meant = self.rules.meant(device_id, scope)
        status = self.rules.put(meant, kind, rule_id, body, before, after)
        if status == 200 and scope != "global":
            self.rules.wrote_to(scope, kind, rule_id)
        return status

    def delete_rule(self, device_id: str, where: tuple[str, str, str]) -> int:
        scope, kind, rule_id = where
        return self.rules.delete(self.rules.meant(device_id, scope), kind, rule_id)

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
        self.rules.log_out(device_id)

    def shown_pushers(self) -> list[JsonDict]:
        return by_key(pusher.shown(self.rules.own) for pusher in self.pushers.values())


def by_key(pushers: Iterable[JsonDict]) -> list[JsonDict]:
    """Pushers in an order of their own: the server's is not laid down."""
    return sorted(pushers, key=lambda pusher: (pusher["app_id"], pusher["pushkey"]))
