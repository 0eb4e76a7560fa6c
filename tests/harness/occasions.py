# SPDX-License-Identifier: AGPL-3.0-or-later
"""Events and the users for whom they are evaluated, with Synapse's own evaluator; random rules.

For tests of how device rules are compiled and matched.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import attr
from hypothesis import strategies as st
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, RoomVersions
from synapse.synapse_rust.push import PushRuleEvaluator

from synapse_msc3881.cascade.rulesets import KINDS, DeviceRule, to_json
from synapse_msc3881.evaluation.compiling import compile_always
from synapse_msc3881.evaluation.conditions import pattern_ns
from synapse_msc3881.evaluation.running import EventFacts, find_facts
from synapse_msc3881.seams import RuleCompiler

USER = "@bob:example.org"
ROOMS = ("!room:example.org", "!Room:example.org", "!other:example.org", "!*")
SENDERS = ("@alice:example.org", "@Alice:example.org", "@carol:example.org", "@*")
EXTENSIBLE_EVENTS = "org.matrix.msc3932.extensible_events"

FLAGS = (
    "msc1767_enabled",
    "msc3381_polls_enabled",
    "msc3664_enabled",
    "msc4028_push_encrypted_events",
    "msc4075_enabled",
    "msc4210_enabled",
    "msc4306_enabled",
)


# --- Synapse's evaluator ------------------------------------------------------------------------


@attr.s(auto_attribs=True, frozen=True)
class Setting:
    """A homeserver's flags, and the room version of an event."""

    flags: frozenset[str]
    room_version: str

    @property
    def experimental(self) -> Any:
        return SimpleNamespace(**{flag: flag in self.flags for flag in FLAGS})

    @property
    def homeserver(self) -> Any:
        """As much of a homeserver as says which flags are set."""
        return SimpleNamespace(config=SimpleNamespace(experimental=self.experimental))

    @property
    def compiler(self) -> RuleCompiler:
        return RuleCompiler(self.homeserver)

    @property
    def features(self) -> Sequence[str]:
        version = VERSIONS[self.room_version]
        features: Sequence[str] = version.msc3931_push_features
        return features


VERSIONS = {
    **{version: KNOWN_ROOM_VERSIONS[version] for version in KNOWN_ROOM_VERSIONS},
    RoomVersions.MSC1767v10.identifier: RoomVersions.MSC1767v10,
}


@attr.s(auto_attribs=True, frozen=True)
class Occasion:
    """An event, and the user for whom it is evaluated."""

    keys: Mapping[str, Any]
    display_name: str | None
    has_mentions: bool
    members: int
    power: int | None
    subscribed: bool | None

    def evaluator(self, setting: Setting) -> Any:
        arguments = {
            "flattened_keys": self.keys,
            "has_mentions": self.has_mentions,
            "room_member_count": self.members,
            "sender_power_level": self.power,
            "notification_power_levels": {"room": 50},
            "related_events_flattened": {"m.in_reply_to": {"sender": SENDERS[0]}},
            "related_event_match_enabled": "msc3664_enabled" in setting.flags,
            "room_version_feature_flags": setting.features,
            "msc3931_enabled": "msc1767_enabled" in setting.flags,
            "msc4210_enabled": "msc4210_enabled" in setting.flags,
            "msc4306_enabled": "msc4306_enabled" in setting.flags,
        }
        takes = inspect.signature(PushRuleEvaluator).parameters
        return PushRuleEvaluator(**{name: arguments[name] for name in takes})  # type: ignore[arg-type]

    def user(self) -> tuple[Any, ...]:
        """What Synapse hands to the evaluator of the user."""
        takes = inspect.signature(PushRuleEvaluator.run).parameters
        thread = (self.subscribed,) if "msc4306_thread_subscription_state" in takes else ()
        return (USER, self.display_name, *thread)


T = TypeVar("T")

Native = Callable[[Any], Sequence[Any]]


def runner(occasion: Occasion, setting: Setting) -> Native:
    evaluator = occasion.evaluator(setting)
    return lambda compiled: list(evaluator.run(compiled, *occasion.user()))


@attr.s(auto_attribs=True)
class Running:
    """Runs rules for a user who may do so many pieces of work that count."""

    native: Native
    left: int = 1_000_000
    is_over: bool = False
    skipped: int = 0
    runs: int = 0
    work_ns: list[int] = attr.Factory(list)
    complete_scopes: int = 2
    name: str | None = None
    user: tuple[Any, ...] = (USER, None)
    known: dict[object, Any] = attr.Factory(dict)

    def __call__(self, rules: Any) -> Sequence[Any]:
        self.runs += 1
        return self.native(rules)

    def once(self, what: object, find: Callable[[], T]) -> T:
        if what not in self.known:
            self.known[what] = find()
        found: T = self.known[what]
        return found

    def may(self, work_ns: int) -> bool:
        self.left -= 1
        self.is_over = self.is_over or self.left < 0
        self.skipped += self.is_over
        if not self.is_over:
            self.work_ns.append(work_ns)
        return not self.is_over

    def name_ns(self) -> int:
        return pattern_ns(self.name or "") - pattern_ns("")


def facts(occasion: Occasion, setting: Setting) -> EventFacts:
    always = compile_always(setting.compiler.compile)
    return find_facts(occasion.evaluator(setting).run, always, occasion.keys)


# --- Random rules and events --------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "type",
        "room_id",
        "sender",
        "state_key",
        "content.body",
        "content.membership",
        "content.number",
        "content.flag",
        "content.list",
        "content.m\\.mentions.user_ids",
        "content.nothing",
    ]
)
WORDS = ("hello", "Bob", "bob", "world", "m.text", "m.room.message", "m.room.member", "invite")
PATTERNS = st.sampled_from([*WORDS, "*", "h?llo", "*o*", "", "!*", "@alice*", USER, *ROOMS])
TEXTS = st.lists(st.sampled_from([*WORDS, "hello!", "@room", "B*b", "x"]), max_size=4).map(" ".join)
VALUES = st.sampled_from([*WORDS, 1, 0, True, False, None, USER, *ROOMS, *SENDERS])

CONDITIONS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda k, p: {"kind": "event_match", "key": k, "pattern": p}, KEYS, PATTERNS),
    st.builds(lambda k, v: {"kind": "event_property_is", "key": k, "value": v}, KEYS, VALUES),
    st.builds(lambda k, v: {"kind": "event_property_contains", "key": k, "value": v}, KEYS, VALUES),
    st.sampled_from(
        [
            {"kind": "contains_display_name"},
            {"kind": "sender_notification_permission", "key": "room"},
            {"kind": "room_member_count", "is": "2"},
            {"kind": "room_member_count", "is": ">=3"},
            {"kind": "room_member_count", "is": "no number"},
            {
                "kind": "org.matrix.msc3931.room_version_supports",
                "feature": EXTENSIBLE_EVENTS,
            },
            {"kind": "im.nheko.msc3664.related_event_match", "rel_type": "m.in_reply_to"},
            {"kind": "io.element.msc4306.thread_subscription", "subscribed": True},
            {"kind": "unknown", "what": ["ever"]},
            {"kind": "event_match", "key": "room_id", "pattern": ROOMS[0]},
            {"kind": "event_match", "key": "type", "pattern": "m.room.message"},
        ]
    ),
)
ACTIONS = st.lists(
    st.sampled_from(
        [
            "notify",
            "dont_notify",
            "coalesce",
            {"set_tweak": "sound", "value": "siren"},
            {"set_tweak": "highlight"},
            {"set_tweak": "highlight", "value": False},
            {"set_tweak": "mark", "value": 0},
        ]
    ),
    max_size=3,
)
# Rust leaves rules out whose ids hold the name of a proposal that is turned off.
RULE_IDS = st.sampled_from(
    ["a", "b", "c", "org.matrix.msc1767", ".org.matrix.msc3930.rule.poll", "0", "ß"]
)


@st.composite
def device_rules(draw: st.DrawFn) -> list[DeviceRule]:
    """The rules of one scope, in no particular order."""
    rules: dict[tuple[str, str], DeviceRule] = {}
    for priority in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from([*KINDS]))
        conditions: list[Any] = []
        if kind == "room":
            rule_id = draw(st.sampled_from(ROOMS))
        elif kind == "sender":
            rule_id = draw(st.sampled_from(SENDERS))
        else:
            rule_id = draw(RULE_IDS)
        if kind == "content":
            conditions = [{"kind": "event_match", "key": "content.body", "pattern": draw(PATTERNS)}]
        elif kind in ("override", "underride"):
            conditions = draw(st.lists(CONDITIONS, max_size=2))
        rules[kind, rule_id] = DeviceRule(
            profile_tag="phone",
            kind=kind,
            rule_id=rule_id,
            priority=priority,
            conditions=to_json(conditions),
            actions=to_json(draw(ACTIONS)),
            enabled=draw(st.sampled_from([True, True, True, False])),
        )
    return draw(st.permutations(list(rules.values())))


OCCASIONS = st.builds(
    Occasion,
    keys=st.fixed_dictionaries(
        {"type": st.sampled_from(["m.room.message", "m.room.member", "x"])},
        optional={
            "room_id": st.sampled_from(ROOMS),
            "sender": st.sampled_from(SENDERS),
            "state_key": st.sampled_from(["", USER]),
            "content.body": TEXTS,
            "content.membership": st.just("invite"),
            "content.number": st.sampled_from([0, 1, True, "1"]),
            "content.flag": st.sampled_from([True, False, None]),
            "content.list": st.lists(VALUES, max_size=3),
            "content.m\\.mentions.user_ids": st.sampled_from(
                [[USER], [], [SENDERS[0]], [SENDERS[0], USER]]
            ),
        },
    ),
    display_name=st.sampled_from([None, "Bob", "hello world", "B*b", "x"]),
    has_mentions=st.booleans(),
    members=st.integers(1, 4),
    power=st.sampled_from([None, 0, 50]),
    subscribed=st.sampled_from([None, True, False]),
)
SETTINGS = st.builds(
    Setting,
    flags=st.frozensets(st.sampled_from(FLAGS)),
    room_version=st.sampled_from([*VERSIONS]),
)


# --- Some of them ---------------------------------------------------------------------------------


def rule(kind: str, rule_id: str, actions: Sequence[Any], conditions: Any = ()) -> DeviceRule:
    return DeviceRule(
        "phone", kind, rule_id, 0, to_json(list(conditions)), to_json(list(actions)), True
    )


MESSAGE = Occasion(
    {"type": "m.room.message", "room_id": ROOMS[0], "sender": SENDERS[0], "content.body": "hello"},
    "Bob",
    False,
    2,
    0,
    None,
)
EXTENSIBLE_OFF = Setting(frozenset(), "11")

# Not "dont_notify" and the like: Synapse's evaluator leaves them out.
MATCHED = [{"set_tweak": "matched"}]
