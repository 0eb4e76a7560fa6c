# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules and events that are made to be dear: those that were found, and any others."""

from collections.abc import Sequence
from typing import Any

import attr
from hypothesis import strategies as st

from synapse_msc3881.cascade.rulesets import DeviceRule, to_json
from tests.harness.occasions import MESSAGE, ROOMS, Occasion

#: Synapse's limits.
MAX_RULE_BYTES = 1024
MAX_EVENT_BYTES = 65_000

TAGS = [f"tag-{n}" for n in range(20)]

SILENT = "[]"
NEVER = {"kind": "room_member_count", "is": "777"}

JsonDict = dict[str, Any]


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
