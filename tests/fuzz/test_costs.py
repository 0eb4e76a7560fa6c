# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules and events that are made to be dear, against the same rules in `global`.

Each case is a room of users with rules, and an event; all of it is evaluated in one go, as Synapse
does it, while everybody else waits. With FUZZ_SECONDS it is timed and compared with what Synapse
takes for the same rules in `global`. Without, what is compared is counted and so the same each
time: the work that is done for nothing, and how often rules are run once the clock counts.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synapse.storage.databases.main.push_rule import _load_rules

from synapse_msc3881.cascade.outcomes import MARK
from synapse_msc3881.cascade.rulesets import KINDS, DeviceRule, to_json
from synapse_msc3881.evaluation.conditions import needs_of
from synapse_msc3881.evaluation.evaluator import (
    Evaluation,
    EventEvaluation,
    StagedActions,
)
from synapse_msc3881.evaluation.matching import UserScopes
from synapse_msc3881.evaluation.prefilter import searchable
from synapse_msc3881.evaluation.spending import (
    FREE_NS,
    MAX_DEBT_OF_ALL_SECONDS,
    MAX_DEBT_SECONDS,
    Spending,
)
from synapse_msc3881.failures import Failures
from synapse_msc3881.metrics import Metrics
from tests.fuzz import budget
from tests.fuzz.budget import spend
from tests.harness.compiling import compile_user
from tests.harness.occasions import EXTENSIBLE_OFF, MESSAGE, ROOMS, Occasion
from tests.harness.rows import row_of

#: Synapse's limits.
MAX_RULE_BYTES = 1024
MAX_EVENT_BYTES = 65_000

#: What takes Synapse longer in `global` is not timed.
MOST_TIMED_NS = 1_000_000_000

TAGS = [f"tag-{n}" for n in range(20)]

SILENT = "[]"
NEVER = {"kind": "room_member_count", "is": "777"}

JsonDict = dict[str, Any]


# --- Cases --------------------------------------------------------------------------------------


@attr.s(auto_attribs=True, frozen=True)
class Case:
    """Users in a room, each with so many rules made of these, in so many scopes; and an event."""

    rules: Sequence[Sequence[JsonDict]]
    keys: JsonDict
    count: int = 60
    scopes: int = 1
    users: int = 1

    def device_rules(self) -> list[DeviceRule]:
        """One user's rules, and at the end one that mutes the room in each scope."""
        listed = [self.tag_of(n) for n in range(self.count)]
        rules = [
            DeviceRule(tag, "override", f"{n}", n, self.conditions(n), '["notify"]', True)
            for n, tag in enumerate(listed)
        ]
        mutes = [DeviceRule(tag, "room", ROOMS[0], 0, "[]", SILENT, True) for tag in set(listed)]
        return [*rules, *mutes]

    def tag_of(self, number: int) -> str:
        return TAGS[number % self.scopes]

    def conditions(self, number: int) -> str:
        """Different ones for each rule, so that none stands for another."""
        conditions = [dict(each) for each in self.rules[number % len(self.rules)]]
        text = to_json(conditions)
        while len(text) > MAX_RULE_BYTES and conditions:
            del conditions[-1]
            text = to_json(conditions)
        return text

    def occasion(self) -> Occasion:
        return Occasion({**MESSAGE.keys, **self.keys}, "Bob", True, 2, 0, None)


def body(pattern: str) -> JsonDict:
    return {"kind": "event_match", "key": "content.body", "pattern": pattern}


def topic(pattern: str) -> JsonDict:
    return {"kind": "event_match", "key": "content.topic", "pattern": pattern}


def long_text(piece: str) -> str:
    return (piece * MAX_EVENT_BYTES).encode()[:MAX_EVENT_BYTES].decode(errors="ignore")


def said(piece: str, key: str = "content.body") -> JsonDict:
    return {key: long_text(piece)}


ALPHABET = "abcdefghijklmnopqrstuvwxyz"

#: The dearest that were found, by what they were found with.
WORST = {
    "hundreds of literals": Case(
        [[body("*".join(ALPHABET * 15))]], said(ALPHABET[:-1] + " "), count=60
    ),
    "hundreds of literals of two": Case(
        [[body("*".join(f"{a}{b}" for a in ALPHABET for b in ALPHABET[:12]))]],
        said("".join(f"{a}{b}" for a in ALPHABET for b in ALPHABET[:11])),
        count=250,
    ),
    "literals beyond ASCII": Case([[body("é" * 300 + "*")]], said("é" * 299 + "e"), count=100),
    "a long literal, nearly there": Case([[body("a" * 450 + "b" + "a" * 450 + "*")]], said("a")),
    "keywords, nearly there": Case(
        [[body(f"word{n}")] for n in range(400)],
        said(" ".join(f"word{n}x" for n in range(400)) + " "),
        count=400,
    ),
    "keywords that are there, and a condition that is not": Case(
        [[body(f"word{n}"), NEVER] for n in range(400)],
        said(" ".join(f"word{n}" for n in range(400)) + " "),
        count=400,
    ),
    "many patterns in a rule": Case([[body("*a*")] * 15 + [NEVER]], said("a "), count=100),
    "question marks": Case([[body("?" * 900)], [topic("?" * 900)]], said("é"), count=60),
    "names": Case([[{"kind": "contains_display_name"}] * 30 + [NEVER]], said("Bob "), count=100),
    "values of one key": Case(
        [[topic(f"{n}" * 100)] for n in range(400)], said("1", "content.topic"), count=400
    ),
    "long lists": Case(
        [[{"kind": "event_property_contains", "key": "content.list", "value": "x"}] * 14 + [NEVER]],
        {"content.list": [*range(30_000), "x"]},
        count=200,
    ),
    "many keys": Case(
        [
            [{"kind": "event_property_is", "key": f"content.k{n}", "value": n}, NEVER]
            for n in range(400)
        ],
        {f"content.k{n}": n for n in range(5000)},
        count=400,
    ),
    "deep keys": Case(
        [[{"kind": "event_match", "key": "a." * 400 + "b", "pattern": "*x*"}, NEVER]],
        {"a." * 400 + "b": long_text("x"), **{"a." * n + "c": "x" for n in range(400)}},
        count=100,
    ),
    "folded text": Case([[body("*ss*ss*ss*t")]], said("ßŉİﬃ"), count=100),
    "twenty scopes": Case([[body("*a*b*")], [body("b*")]], said("ba "), count=400, scopes=20),
    "many users": Case([[body("*".join(ALPHABET * 15))]], said(ALPHABET), count=30, users=20),
    "many users with keywords": Case(
        [[body("lorem"), NEVER], [body("ipsum")]], said("lorem ipsum "), count=10, users=50
    ),
}

PIECES = st.sampled_from(
    [
        "a",
        "b",
        "ab",
        "word",
        "é",
        "ß",
        "ﬃ",
        "İ",
        "\u0434",
        "\u6f22",
        " ",
        "-",
        "1",
        "½",
        "\U0001f600",
    ]
)
LITERALS = st.lists(PIECES, min_size=1, max_size=8).map("".join)
GLUES = st.sampled_from(["*", "?", " ", "", "**?", "-"])


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Short ones, and ones as long as a rule may be."""
    literals = draw(st.lists(LITERALS, min_size=1, max_size=4))
    repeated = draw(st.sampled_from([1, 1, 2, 10, 100]))
    glue = draw(GLUES)
    made = glue.join(literals * repeated)
    return draw(st.sampled_from(["", "*", "?"])) + made[:900] + draw(st.sampled_from(["", "*"]))


KEYS = st.sampled_from(["content.body", "content.body", "content.topic", "content.a.a.a.a"])
CONDITIONS: st.SearchStrategy[JsonDict] = st.one_of(
    st.builds(lambda k, p: {"kind": "event_match", "key": k, "pattern": p}, KEYS, patterns()),
    st.builds(lambda k, v: {"kind": "event_property_is", "key": k, "value": v}, KEYS, LITERALS),
    st.builds(
        lambda v: {"kind": "event_property_contains", "key": "content.list", "value": v}, LITERALS
    ),
    st.sampled_from([{"kind": "contains_display_name"}, NEVER]),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rules = draw(
        st.lists(
            st.tuples(st.lists(CONDITIONS, min_size=1, max_size=2), st.integers(1, 12)).map(
                lambda drawn: [each for each in drawn[0] for _ in range(drawn[1])]
            ),
            min_size=1,
            max_size=6,
        )
    )
    used = [c["pattern"] for rule in rules for c in rule if "pattern" in c]
    keys: JsonDict = {}
    for key in draw(st.lists(KEYS, unique=True, min_size=1)):
        # Much of what the rules look for, and nearly.
        pieces = draw(st.lists(st.sampled_from([*used, "a", "é ", "x"]), min_size=1, max_size=4))
        text = "".join(piece.replace("*", "").replace("?", "b") for piece in pieces)
        text = text[: draw(st.integers(1, max(1, len(text))))] + draw(PIECES)
        keys[key] = long_text(text)[: draw(st.sampled_from([50, 2000, 30_000, MAX_EVENT_BYTES]))]
    if draw(st.booleans()):
        keys["content.list"] = ["x"] * draw(st.sampled_from([1, 30_000])) + ["a"]
    if draw(st.booleans()):
        keys.update({f"content.k{n}": "x" for n in range(draw(st.sampled_from([10, 5000])))})
    return Case(
        rules,
        keys,
        draw(st.sampled_from([3, 30, 100])),
        draw(st.sampled_from([1, 1, 3, 20])),
        draw(st.sampled_from([1, 1, 3, 20])),
    )


# --- Evaluating a case --------------------------------------------------------------------------


@attr.s(auto_attribs=True)
class Ticks:
    """CPU time that passes with each look at it."""

    step: float
    now: float = 0.0
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += self.step
        return self.now


class Counting:
    """Synapse's evaluator, and how often its `run` was called."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.runs = 0

    def run(self, *args: Any) -> Any:
        self.runs += 1
        return self._native.run(*args)


class Room:
    """The users of a case, and what has been spent for them."""

    def __init__(self, case: Case, clock: Callable[[], float]) -> None:
        self.case = case
        self.spending = Spending(clock)
        metrics = Metrics("fuzz.example.org")
        scopes: Any = None
        self._evaluation = Evaluation(
            scopes,
            EXTENSIBLE_OFF.compiler,
            self.spending,
            Failures(metrics.fell_back, lambda: 0.0),
            metrics,
        )
        rules = case.device_rules()
        compiled = compile_user(rules, [TAGS], EXTENSIBLE_OFF.compiler.compile)
        assert isinstance(compiled, UserScopes)
        self.users = {f"@user{n}:example.org": compiled for n in range(case.users)}
        self.native_rules = _load_rules([], {}, EXTENSIBLE_OFF.experimental)
        self.global_rules = [
            _load_rules(
                [
                    (f"global/override/{n}", KINDS["override"], case.conditions(n), '["notify"]')
                    for n in range(case.count)
                    if case.tag_of(n) == tag
                ],
                {},
                EXTENSIBLE_OFF.experimental,
            )
            for tag in TAGS[: case.scopes]
        ]
        self._occasion = case.occasion()
        self._rest = self._occasion.user()[1:]

    def native(self) -> Any:
        return self._occasion.evaluator(EXTENSIBLE_OFF)

    def evaluate(self, native: Any) -> dict[str, list[Any]]:
        """What would be stored of the event for each user."""
        event = EventEvaluation(self._evaluation.tools, self.users)
        evaluator = event.in_place_of(native, self._occasion.keys)
        return {
            user_id: _stored(evaluator.run(self.native_rules, user_id, *self._rest))
            for user_id in self.users
        }

    def evaluate_global(self, native: Any) -> None:
        """The same rules in `global`; those of each scope by themselves, up to a match."""
        for user_id in self.users:
            for rules in self.global_rules:
                native.run(rules, user_id, *self._rest)

    def evaluate_default(self, native: Any) -> None:
        """What Synapse does for users who have no rules at all."""
        for user_id in self.users:
            native.run(self.native_rules, user_id, *self._rest)


def _stored(actions: Any) -> list[Any]:
    return row_of(actions.stored) if isinstance(actions, StagedActions) else list(actions)


# --- What must hold -----------------------------------------------------------------------------


def assert_work_is_bounded(case: Case) -> None:
    """That what is done is bounded, by counts that are the same each time."""
    # For each look at a rule our test takes less than Synapse would.
    text = searchable(case.occasion().keys)
    for number in range(min(case.count, len(case.rules))):
        needs = needs_of(json.loads(case.conditions(number)))
        if needs.pattern_ns:
            assert needs.look_ns(text) <= needs.run_ns(text) + 1000
        else:
            assert not needs.pieces
    # Once the share of the event is used up, time counts, and no user gets beyond the bound.
    step = MAX_DEBT_SECONDS / 10
    clock = Ticks(step)
    room = Room(case, clock)
    native = Counting(room.native())
    first = room.evaluate(native)
    assert clock.looks <= MAX_DEBT_OF_ALL_SECONDS / step + 3 * case.users
    groups = sum(len(scope.groups) for scope in next(iter(room.users.values())).scopes.values())
    comparing = sum(
        len(scope.comparing) for scope in next(iter(room.users.values())).scopes.values()
    )
    most_for_nothing = FREE_NS // 400_000
    # For each user `global`, and rules that compare once for the event; then patterns.
    allowed = 1 + case.users * (1 + most_for_nothing) + clock.looks + comparing * case.users
    assert native.runs <= allowed, (native.runs, allowed, groups)
    # Whatever became of patterns, each scope has an outcome: that of the muted room, or a match.
    for stored in first.values():
        assert len(_matched(stored)) == min(case.scopes, case.count)
    # Who is over the bound pays for nothing more.
    if any(room.spending.is_over(user_id) for user_id in room.users):
        looks = clock.looks
        over = {user_id for user_id in room.users if room.spending.is_over(user_id)}
        room.users = {user_id: room.users[user_id] for user_id in over}
        room.evaluate(Counting(room.native()))
        assert clock.looks == looks


def _matched(stored: list[Any]) -> Any:
    (element,) = (each for each in stored if isinstance(each, dict) and MARK in each)
    return element[MARK]


#: In comparison with the same rules in `global`; and what a share may take at worst, for each user,
#: and what all together may take beyond their shares, with the last rule of each.
MOST_OF_GLOBAL = 2.0
MOST_OF_SHARE = 0.008
LAST_RULE = 0.015


def assert_nobody_waits_longer(case: Case, tried: Counter[str]) -> None:
    """That nobody waits longer than for the same rules in `global`, by CPU time."""
    ours, in_global = (min(taken) for taken in zip(*(_times(case) for _ in range(3)), strict=True))
    least = 0.002 + 0.0005 * case.users
    bound = 0.005 + case.users * MOST_OF_SHARE + MAX_DEBT_OF_ALL_SECONDS + LAST_RULE
    print(f"ours {ours * 1000:.2f} ms, global {in_global * 1000:.2f} ms")
    if ours > least:
        tried[f"{int(ours / in_global * 10) * 10} % of global"] += 1
    tried["most ms"] = max(tried["most ms"], int(ours * 1000))
    assert ours <= max(MOST_OF_GLOBAL * in_global, least), (ours, in_global)
    assert ours <= bound, (ours, bound)


def work_in_global(case: Case) -> int:
    """How long Synapse takes in `global`, at most, in nanoseconds, about."""
    text = searchable(case.occasion().keys)
    of_rules = sum(
        needs_of(json.loads(case.conditions(number))).run_ns(text) for number in range(case.count)
    )
    return of_rules * case.users


def _times(case: Case) -> tuple[float, float]:
    room = Room(case, time.thread_time)
    ours = _time(room.evaluate, room.native()) - _time(room.evaluate_default, room.native())
    return ours, _time(room.evaluate_global, room.native())


def _time(function: Callable[[Any], object], native: Any) -> float:
    started = time.thread_time()
    function(native)
    return time.thread_time() - started


# --- The tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORST)
def test_the_worst_cases_found(name: str, tried: Counter[str]) -> None:
    case = WORST[name]
    assert_work_is_bounded(case)
    tried["cases"] += 1
    if budget.SECONDS:
        assert_nobody_waits_longer(case, tried)


def test_dear_rules_and_events(tried: Counter[str]) -> None:
    def run(settings_of_run: settings) -> None:
        @given(cases())
        @settings_of_run
        def is_bounded(case: Case) -> None:
            assert_work_is_bounded(case)
            tried["cases"] += 1
            if budget.SECONDS and work_in_global(case) < MOST_TIMED_NS:
                assert_nobody_waits_longer(case, tried)

        is_bounded()

    spend(run, examples=25, round_of=100)
