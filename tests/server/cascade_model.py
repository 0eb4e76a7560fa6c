# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model of the cascade, and random rules, profile tags, pushers and events to hold it to.

The model is written from the specification alone and knows nothing of the module's code. Each round
changes some rules and pushers over HTTP and in the model, sends events, waits for a fence, and
compares what each pushkey got: which events, in which order, with which tweaks.
"""

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attr

from demo.client import JsonDict, Session
from demo.gateway import Gateway
from tests.server.cascade_helpers import FENCE, Action, Device, new_pushkey
from tests.server.own_settings_helpers import switch

SCOPES = ("phone", "tablet", "a/ß ñ")
KINDS = ("override", "content", "room", "sender", "underride")
# Of the server-default rules that are no overrides, this is the only one that matches one of the
# events below.
DEFAULT_RULE = ".m.rule.message"
MASTER = ".m.rule.master"

TYPES = ("org.example.a", "org.example.b", "m.room.message", "m.room.message", "m.reaction")
WORDS = ("red", "green", "blue", "yellow")
ACTIONS: Sequence[Sequence[Action]] = (
    [],
    ["dont_notify"],
    [{"set_tweak": "sound", "value": "unheard"}],
    ["notify"],
    ["notify", {"set_tweak": "sound", "value": "siren"}],
    ["notify", {"set_tweak": "highlight"}],
    [{"set_tweak": "sound", "value": "bell"}, "notify", {"set_tweak": "highlight", "value": False}],
)


class Users(Protocol):
    """Where users come from: a deployment, say."""

    def register(self) -> Session:
        """A new user, logged in."""


class Logins(Users, Protocol):
    """Where their further devices come from."""

    def login(self, user: Session, device_id: str) -> Session:
        """A further device of a user."""


# --- The model ----------------------------------------------------------------------------------


@attr.s(auto_attribs=True)
class Rule:
    rule_id: str
    actions: Sequence[Action]
    conditions: Sequence[JsonDict] = ()
    pattern: str = ""
    enabled: bool = True


@attr.s(auto_attribs=True, frozen=True)
class Event:
    event_id: str
    room: str
    sender: str
    type: str
    words: Sequence[str]
    members: int
    content: JsonDict = attr.ib(factory=dict)
    sender_may_notify_room: bool = False


@attr.s(auto_attribs=True)
class Scope:
    """The rules of each kind, in the order of their priority."""

    is_global: bool
    rules: dict[str, list[Rule]] = attr.ib(factory=lambda: {kind: [] for kind in KINDS})
    # The server-default overrides, in `global` and in the scope of a device's own settings.
    defaults: list[Rule] = attr.ib(factory=list)
    is_complete: bool = False

    def match(self, event: Event) -> tuple[str, Rule] | None:
        for rule in self.defaults:
            if rule.rule_id == MASTER and rule.enabled:
                return "override", rule
        for kind in KINDS:
            if kind == "sender" and self.is_global:
                continue  # Synapse stores them in a form that never matches.
            for rule in self.rules[kind]:
                if rule.enabled and matches(kind, rule, event):
                    return kind, rule
            if kind == "override":
                default = self.default_match(event)
                if default is not None:
                    return kind, default
        return None

    def default_match(self, event: Event) -> Rule | None:
        """The first of the server-default overrides that matches."""
        for rule in self.defaults:
            if rule.enabled and all(default_holds(c, event) for c in rule.conditions):
                return rule
        return None

    @property
    def exists(self) -> bool:
        return any(self.rules.values())


def matches(kind: str, rule: Rule, event: Event) -> bool:
    if kind == "room":
        return rule.rule_id == event.room
    if kind == "sender":
        return rule.rule_id == event.sender
    if kind == "content":
        return rule.pattern in event.words
    return all(holds(condition, event) for condition in rule.conditions)


def holds(condition: JsonDict, event: Event) -> bool:
    if condition["kind"] == "room_member_count":
        return bool(condition["is"] == f"=={event.members}")
    if condition["key"] == "content.body":
        if condition["kind"] == "event_property_is":
            return bool(condition["value"] == " ".join(event.words))
        return condition["pattern"] in event.words
    return bool(condition["pattern"] == getattr(event, condition["key"]))


def default_holds(condition: JsonDict, event: Event) -> bool:
    """Whether a condition of a server-default override holds for one of the events below."""
    kind, key = condition["kind"], condition.get("key", "")
    if kind == "contains_display_name":
        return False  # No body has one.
    if kind == "sender_notification_permission":
        return event.sender_may_notify_room
    value = {
        "type": event.type,
        "content.body": " ".join(event.words),
        "content.msgtype": event.content.get("msgtype"),
        "content.m\\.relates_to.rel_type": event.content.get("m.relates_to", {}).get("rel_type"),
        "content.m\\.mentions.user_ids": event.content.get("m.mentions", {}).get("user_ids", []),
        "content.m\\.mentions.room": event.content.get("m.mentions", {}).get("room"),
    }.get(key)
    if kind == "event_match":
        return bool(value == condition["pattern"])
    if kind == "event_property_is":
        return bool(value == condition["value"])
    assert kind == "event_property_contains", condition
    return isinstance(value, list) and condition["value"] in value


@attr.s(auto_attribs=True)
class Pusher:
    device: Device
    tags: Sequence[str] = ("global",)
    enabled: bool = True
    expected: list[tuple[str, JsonDict]] = attr.ib(factory=list)


@attr.s(auto_attribs=True)
class OwnDevice:
    """A further device of a user, which may have settings of its own (specification 9)."""

    session: Session
    logins: Logins
    is_on: bool = False
    # The rules that stay when it has them no longer.
    kept: set[tuple[str, str]] = attr.ib(factory=set)

    @property
    def tag(self) -> str:
        return self.session.device_id


@attr.s(auto_attribs=True)
class User:
    session: Session
    scopes: dict[str, Scope]
    pushers: list[Pusher]
    own: OwnDevice | None = None

    def arrives(self, event: Event) -> None:
        """An event arrives: what is to be pushed to each of the user's devices?"""
        if event.sender == self.session.user_id:
            return
        for pusher in self.pushers:
            rule = self.walk(self.tags_of(pusher), event) if pusher.enabled else None
            if rule is not None and "notify" in rule.actions:
                pusher.expected.append((event.event_id, tweaks(rule.actions)))

    def tags_of(self, pusher: Pusher) -> Sequence[str]:
        """The tags that hold for a pusher."""
        return [self.session_tag] if self.goes_by_own(pusher) else pusher.tags

    def goes_by_own(self, pusher: Pusher) -> bool:
        own = self.own
        is_of_device = own is not None and pusher.device.user is own.session
        return own is not None and own.is_on and is_of_device and [*pusher.tags] == ["global"]

    @property
    def session_tag(self) -> str:
        assert self.own is not None
        return self.own.tag

    def room_was_upgraded(self, old: str, new: str) -> None:
        """What is on about a room is copied for its successor, in each set of rules."""
        for name, scope in self.scopes.items():
            rules = scope.rules["room"]
            for rule in [rule for rule in rules if rule.rule_id == old and rule.enabled]:
                rules.insert(0, attr.evolve(rule, rule_id=new))
                if self.own is not None and name == self.own.tag and ("room", old) in self.own.kept:
                    self.own.kept.add(("room", new))

    def walk(self, tags: Sequence[str], event: Event) -> Rule | None:
        for tag in dict.fromkeys(tags):
            match = self.scopes[tag].match(event) if tag in self.scopes else None
            if match is None:
                continue
            kind, rule = match
            rings = "notify" in rule.actions
            may_be_quiet = tag != "global" and not self.scopes[tag].is_complete
            if may_be_quiet and kind != "override" and rings and self.is_quiet(event):
                continue
            return rule
        return None

    def is_quiet(self, event: Event) -> bool:
        """Whether the server-default overrides keep an event quiet."""
        rule = self.scopes["global"].default_match(event)
        return rule is not None and "notify" not in rule.actions


def tweaks(actions: Sequence[Action]) -> JsonDict:
    return {
        action["set_tweak"]: action.get("value", True)
        for action in actions
        if isinstance(action, dict)
    }


# --- Random changes, made in the model and over HTTP --------------------------------------------


@attr.s(auto_attribs=True)
class World:
    random: random.Random
    gateway: Gateway
    users: list[User]
    senders: list[Session]
    rooms: dict[str, int]  # with how many members
    joined: dict[str, list[Session]] = attr.ib(factory=dict)  # those who did not make the room
    last: dict[str, str] = attr.ib(factory=dict)  # the last event of each
    story: list[Any] = attr.ib(factory=list)

    def tell(self, *what: Any) -> None:
        """Remember what was done, for the message of a failure."""
        self.story.append(what)

    def change_rule(self, user: User, name: str | None = None) -> None:
        name = name or self.random.choice(("global", *SCOPES))
        scope = user.scopes[name]
        kind = self.random.choice(KINDS)
        kept = 1 if kind == "override" else 0  # The fence stays, and stays in front.
        rules = scope.rules[kind]
        changes: list[Callable[[User, str, str, int], object]] = [self.put_rule, self.put_rule]
        if len(rules) > kept and rules[-1].rule_id != DEFAULT_RULE:
            changes += [self.delete_rule, self.set_enabled, self.set_actions]
        if scope.exists:
            self.random.choice(changes)(user, name, kind, kept)
        else:
            self.make_scope(user, name)

    def make_scope(self, user: User, name: str) -> None:
        self.tell("make", name)
        fence = Rule("fence", ["notify"], [event_match("type", FENCE)])
        user.session.put_rule(name, "override", "fence", body_of("override", fence))
        user.scopes[name].rules["override"].insert(0, fence)

    def drop_scope(self, user: User) -> None:
        name = self.random.choice(SCOPES)
        self.tell("drop", name)
        for kind, rules in user.scopes[name].rules.items():
            for rule in rules:
                user.session.delete_rule(name, kind, rule.rule_id)
        user.scopes[name] = Scope(is_global=False)

    # A device with settings of its own

    def change_own(self, user: User) -> None:
        own = user.own
        assert own is not None
        if self.random.random() < 0.04:
            self.log_out_and_in(user, own)
        elif self.random.random() < 0.2:
            self.switch(user, own)
        elif own.is_on and self.random.random() < 0.7:
            self.change_as_global(user, own)
        else:
            self.change_as_device(user, own)

    def switch(self, user: User, own: OwnDevice) -> None:
        scope = user.scopes[own.tag]
        own.is_on = not own.is_on
        self.tell("own settings", own.tag, own.is_on)
        switch(user.session, on=own.is_on, device_id=own.tag)
        if own.is_on:
            own.kept = {(kind, rule.rule_id) for kind in KINDS for rule in scope.rules[kind]}
            copied = copy.deepcopy(user.scopes["global"])
            for kind, rules in scope.rules.items():
                rules += [r for r in copied.rules[kind] if (kind, r.rule_id) not in own.kept]
            scope.defaults = copied.defaults
        else:
            for kind, rules in scope.rules.items():
                rules[:] = [rule for rule in rules if (kind, rule.rule_id) in own.kept]
            scope.defaults = []
        scope.is_complete = own.is_on

    def log_out_and_in(self, user: User, own: OwnDevice) -> None:
        """Its pushers go; its scope too, where that is its own settings."""
        self.tell("log out", own.tag)
        own.session.logout()
        user.pushers = [each for each in user.pushers if each.device.user is not own.session]
        scope = user.scopes[own.tag]
        give_own_device(own.logins, self.gateway, user)
        if not own.is_on:
            user.scopes[own.tag] = scope

    def change_as_global(self, user: User, own: OwnDevice) -> None:
        """The device's app changes `global`, which is the device's scope."""
        scope = user.scopes[own.tag]
        self.tell("as global", own.tag)
        seen = User(own.session, {"global": scope}, [])
        if self.random.random() < 0.3:
            self.change_default_rule(seen)
        else:
            self.change_rule(seen, "global")
        # What is deleted, and written again as `global`, is no longer what it was.
        own.kept &= {(kind, rule.rule_id) for kind in KINDS for rule in scope.rules[kind]}

    def change_as_device(self, user: User, own: OwnDevice) -> None:
        """Another session writes a rule into the device's scope, which stays."""
        scope = user.scopes[own.tag]
        # Where the fence was a copy, it went when they were switched off.
        if all(rule.rule_id != "fence" for rule in scope.rules["override"]):
            self.make_scope(user, own.tag)
            if own.is_on:
                own.kept.add(("override", "fence"))
            return
        kind = self.random.choice(KINDS)
        rule = self.put_rule(user, own.tag, kind, 1 if kind == "override" else 0)
        if own.is_on:
            own.kept.add((kind, rule.rule_id))

    def put_rule(self, user: User, name: str, kind: str, kept: int) -> Rule:
        rules = user.scopes[name].rules[kind]
        rule = self.random_rule(kind)
        old = next((other for other in rules if other.rule_id == rule.rule_id), None)
        rule.enabled = old.enabled if old else True
        others = [other for other in rules if other is not old]
        neighbours = [other for other in others if other.rule_id != DEFAULT_RULE]
        before = after = None
        if kept or (neighbours and self.random.random() < 0.3):
            neighbour = self.random.choice(neighbours)
            place = others.index(neighbour)
            if place >= kept and self.random.random() < 0.5:
                before = neighbour.rule_id
            else:
                after = neighbour.rule_id
                place += 1
        else:
            place = 0
        self.tell("put", name, kind, rule, {"before": before, "after": after})
        body = body_of(kind, rule)
        user.session.put_rule(name, kind, rule.rule_id, body, before=before, after=after)
        rules[:] = [*others[:place], rule, *others[place:]]
        return rule

    def pick(self, user: User, name: str, kind: str, kept: int) -> Rule:
        rules = user.scopes[name].rules[kind][kept:]
        return self.random.choice([rule for rule in rules if rule.rule_id != DEFAULT_RULE])

    def delete_rule(self, user: User, name: str, kind: str, kept: int) -> None:
        rule = self.pick(user, name, kind, kept)
        self.tell("delete", name, kind, rule.rule_id)
        user.session.delete_rule(name, kind, rule.rule_id)
        user.scopes[name].rules[kind].remove(rule)

    def set_enabled(self, user: User, name: str, kind: str, kept: int) -> None:
        rule = self.pick(user, name, kind, kept)
        rule.enabled = not rule.enabled
        self.tell("enable", name, kind, rule.rule_id, rule.enabled)
        user.session.set_rule_enabled(name, kind, rule.rule_id, rule.enabled)

    def set_actions(self, user: User, name: str, kind: str, kept: int) -> None:
        rule = self.pick(user, name, kind, kept)
        rule.actions = self.random.choice(ACTIONS)
        self.tell("actions", name, kind, rule.rule_id, rule.actions)
        user.session.set_rule_actions(name, kind, rule.rule_id, rule.actions)

    def change_default_rule(self, user: User) -> None:
        scope = user.scopes["global"]
        kind, rule = self.random.choice(
            [
                ("underride", scope.rules["underride"][-1]),
                *(("override", d) for d in scope.defaults),
            ]
        )
        if self.random.random() < 0.5:
            rule.enabled = not rule.enabled
            user.session.set_rule_enabled("global", kind, rule.rule_id, rule.enabled)
        else:
            rule.actions = self.random.choice(ACTIONS)
            user.session.set_rule_actions("global", kind, rule.rule_id, rule.actions)
            # Synapse turns a default rule on whose actions are changed for the first time.
            user.session.set_rule_enabled("global", kind, rule.rule_id, rule.enabled)
        self.tell("default", rule)

    def change_pusher(self, user: User) -> None:
        pusher = self.random.choice(user.pushers)
        own = [user.own.tag] if user.own is not None else []
        names = ("global", *SCOPES, "nothing", *own)
        tags = self.random.choices(names, k=self.random.randint(1, 4))
        if own and self.random.random() < 0.4:
            tags = ["global"]
        pusher.enabled = self.random.random() < 0.85
        self.tell("pusher", pusher.device.pushkey, tags, pusher.enabled)
        pusher.device.set(profile_tags=tags, enabled=pusher.enabled)
        tags = [*dict.fromkeys(tags)]
        # What it goes by already is no choice.
        is_echo = user.goes_by_own(pusher) and tags == own
        pusher.tags = ["global"] if is_echo else tags

    def upgrade_room(self) -> None:
        """Meanwhile no device listens: what an upgrade and joins make of pushes is not of here."""
        old = self.random.choice([*self.rooms])
        for pusher in self.pushers:
            pusher.device.set(profile_tags=pusher.tags, enabled=False)
        new = self.senders[0].upgrade_room(old, "10")
        self.tell("upgrade", old, new)
        self.joined[new] = self.joined.pop(old)
        for session in self.joined[new]:
            session.join(new)
        for pusher in self.pushers:
            pusher.device.set(profile_tags=pusher.tags, enabled=pusher.enabled)
        self.rooms[new] = self.rooms.pop(old)
        self.last.pop(old, None)
        for user in self.users:
            user.room_was_upgraded(old, new)

    def random_rule(self, kind: str) -> Rule:
        actions = self.random.choice(ACTIONS)
        if kind == "room":
            return Rule(self.random.choice([*self.rooms]), actions)
        if kind == "sender":
            return Rule(self.random.choice(self.everybody).user_id, actions)
        rule = Rule(f"r{self.random.randrange(4)}", actions)
        if kind == "content":
            rule.pattern = self.random.choice(WORDS)
        else:
            count = self.random.choice((0, 1, 1, 1, 2))
            rule.conditions = [self.random_condition() for _ in range(count)]
        return rule

    def random_condition(self) -> JsonDict:
        word = self.random.choice(WORDS)
        return self.random.choice(
            (
                event_match("type", self.random.choice(TYPES)),
                event_match("sender", self.random.choice(self.everybody).user_id),
                event_match("content.body", word),
                {"kind": "event_property_is", "key": "content.body", "value": word},
                {
                    "kind": "room_member_count",
                    "is": f"=={self.random.choice([*self.rooms.values()])}",
                },
            )
        )

    @property
    def everybody(self) -> list[Session]:
        return [*self.senders, *(user.session for user in self.users)]

    def send_event(self) -> None:
        sender = self.random.choice([*self.senders * 3, *self.everybody])
        room = self.random.choice([*self.rooms])
        event_type = self.random.choice(TYPES)
        words = self.random.sample(WORDS, self.random.randint(1, 3))
        content: JsonDict = {"msgtype": "m.text", "body": " ".join(words)}
        if self.random.random() < 0.2:
            content["msgtype"] = "m.notice"
        if room in self.last and self.random.random() < 0.2:
            content["m.relates_to"] = {"rel_type": "m.replace", "event_id": self.last[room]}
        if self.random.random() < 0.3:
            mentioned = self.random.choices([user.session.user_id for user in self.users])
            content["m.mentions"] = self.random.choice(({"user_ids": mentioned}, {"room": True}))
        event_id = self.last[room] = sender.send(room, content, event_type)
        event = Event(
            event_id,
            room,
            sender.user_id,
            event_type,
            words,
            self.rooms[room],
            content,
            sender_may_notify_room=sender is self.senders[0],  # Who made the rooms.
        )
        self.tell(event)
        for user in self.users:
            user.arrives(event)

    def send_fence(self) -> None:
        """Send what most pushers push, and wait until each has pushed all that it is to push.

        Not all push the fence: a device's scope may have lost it with the settings.
        """
        room = next(iter(self.rooms))
        sender = self.senders[0]
        event_id = sender.send(room, {"body": "fence"}, FENCE)
        fence = Event(event_id, room, sender.user_id, FENCE, ["fence"], self.rooms[room])
        for user in self.users:
            user.arrives(fence)
        for pusher in self.pushers:
            if pusher.expected:
                pusher.device.wait_for(pusher.expected[-1][0])

    @property
    def pushers(self) -> list[Pusher]:
        return [pusher for user in self.users for pusher in user.pushers]

    def check(self) -> None:
        """Compare what came with what the model says."""
        for user in self.users:
            for pusher in user.pushers:
                came = [(push.event_id, push.tweaks) for push in pusher.device.pushes()]
                assert came == pusher.expected, (
                    f"{pusher.device.pushkey} with {pusher.tags} ({pusher.enabled=}), "
                    f"scopes {user.scopes}, after {self.story}"
                )
                pusher.expected.clear()
        self.gateway.clear()
        self.story.clear()

    def round(self) -> None:
        for user in self.users:
            for _ in range(self.random.randint(0, 3)):
                self.change_rule(user)
            for change, chance in (
                (self.change_pusher, 0.6),
                (self.change_default_rule, 0.15),
                (self.drop_scope, 0.05),
                *([(self.change_own, 0.7)] * 2 if user.own is not None else []),
            ):
                if self.random.random() < chance:
                    change(user)
        if self.random.random() < 0.1:
            self.upgrade_room()
        for _ in range(self.random.randint(2, 8)):
            self.send_event()
        self.send_fence()
        self.check()


def event_match(key: str, pattern: str) -> JsonDict:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def body_of(kind: str, rule: Rule) -> JsonDict:
    body: JsonDict = {"actions": list(rule.actions)}
    if kind == "content":
        body["pattern"] = rule.pattern
    elif kind in ("override", "underride"):
        body["conditions"] = list(rule.conditions)
    return body


def give_own_device(logins: Logins, gateway: Gateway, user: User) -> None:
    """Give a user a device that may get settings of its own, with two pushers."""
    session = logins.login(user.session, "OWNDEVICE")
    user.own = OwnDevice(session, logins)
    user.scopes[user.own.tag] = Scope(is_global=False)
    for _ in range(2):
        user.pushers.append(Pusher(Device(session, new_pushkey(), gateway)))
        user.pushers[-1].device.set()


def make_user(users: Users, gateway: Gateway) -> User:
    session = users.register()
    scopes = {name: Scope(name == "global") for name in ("global", *SCOPES)}
    ruleset = session.get_rules("global")
    default = next(rule for rule in ruleset["underride"] if rule["rule_id"] == DEFAULT_RULE)
    scopes["global"].defaults = [
        Rule(rule["rule_id"], rule["actions"], rule["conditions"], enabled=rule["enabled"])
        for rule in ruleset["override"]
    ]
    conditions = [event_match("type", "m.room.message")]
    scopes["global"].rules["underride"].append(
        Rule(DEFAULT_RULE, default["actions"], conditions, enabled=default["enabled"])
    )
    pushers = [Pusher(Device(session, new_pushkey(), gateway)) for _ in range(3)]
    for pusher in pushers:
        pusher.device.set()
    return User(session, scopes, pushers)


def make_world(server: Users, gateway: Gateway, seed: int) -> World:
    senders = [server.register(), server.register()]
    users = [make_user(server, gateway) for _ in range(3)]
    world = World(random.Random(seed), gateway, users, senders, {})
    # One more in the second room, so that the number of members tells them apart.
    somebody = server.register()
    first, second = world.everybody[1:], [*world.everybody[1:], somebody]
    for others in (first, second):
        room = senders[0].create_room(preset="public_chat", room_version="10")
        for session in others:
            session.join(room)
        world.joined[room] = [*others]
        world.rooms[room] = 1 + len(others)
    for user in users:
        world.make_scope(user, "global")
    return world
