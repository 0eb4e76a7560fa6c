# SPDX-License-Identifier: AGPL-3.0-or-later
"""How large a run is."""

from collections.abc import Sequence

import attr


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Size:
    """What a run measures, and how often.

    Attributes:
        name: for the results.
        some: whether to leave out most variants.
        kinds: the databases on which whole messages are measured.
        rounds: how often two servers take turns.
        control_rounds: the same where the difference is small: idle, and the control.
        batch_seconds: about how long a turn of evaluations lasts.
        members: of the rooms in which events are evaluated.
        legacy_members: the same for messages without `m.mentions`.
        most_rules: a variant with more rules than this in a room's members is left out there.
        room: members of the room in which whole messages are sent, each with a pusher.
        muted: members of further rooms, which every member mutes.
        messages: how many are sent to it in a turn.
        latencies: how many messages the latency is taken of.
        dropped: how many events a pusher has dropped.
        pushers: how many are started.
        starts: how often; and how many pairs of servers answer syncs.
        syncs: how many rounds of syncs each of these pairs answers.
        users: how many users are held in memory.
        profile_seconds: for how long a profile is taken.
        page_rooms: how many rooms the user of the page is in.
        page_rounds: how often the page is loaded.
    """

    name: str
    some: bool = False
    kinds: Sequence[str]
    rounds: int
    control_rounds: int
    batch_seconds: float
    members: Sequence[int]
    legacy_members: Sequence[int]
    most_rules: int
    room: int
    muted: Sequence[int]
    messages: int
    latencies: int
    dropped: Sequence[int]
    pushers: int
    starts: int
    syncs: int
    users: Sequence[int]
    profile_seconds: float
    page_rooms: int
    page_rounds: int


FULL = Size(
    name="full",
    kinds=("sqlite", "postgres"),
    rounds=9,
    control_rounds=31,
    batch_seconds=0.2,
    members=(10, 100, 1_000, 5_000),
    legacy_members=(100,),
    most_rules=1_000_000,
    room=300,
    muted=(10, 100, 1_000, 5_000),
    messages=2,
    latencies=300,
    dropped=(10, 1_000, 100_000),
    pushers=20_000,
    starts=6,
    syncs=40,
    users=(1_000, 10_000, 20_000, 100_000),
    profile_seconds=5,
    page_rooms=2_000,
    page_rounds=5,
)

QUICK = Size(
    name="quick",
    kinds=("sqlite",),
    rounds=3,
    control_rounds=7,
    batch_seconds=0.05,
    members=(10, 100, 1_000),
    legacy_members=(100,),
    most_rules=100_000,
    room=30,
    muted=(10, 100),
    messages=2,
    latencies=30,
    dropped=(10, 1_000),
    pushers=1_000,
    starts=1,
    syncs=10,
    users=(1_000, 10_000),
    profile_seconds=1,
    page_rooms=200,
    page_rounds=3,
)

#: For the test that everything runs.
TINY = Size(
    name="tiny",
    some=True,
    kinds=("sqlite",),
    rounds=2,
    control_rounds=2,
    batch_seconds=0.0,
    members=(4,),
    legacy_members=(4,),
    most_rules=100,
    room=4,
    muted=(2,),
    messages=1,
    latencies=2,
    dropped=(3, 1_001),
    pushers=20,
    starts=1,
    syncs=2,
    users=(100,),
    profile_seconds=0.5,
    page_rooms=3,
    page_rounds=1,
)
