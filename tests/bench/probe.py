# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for the benchmark: measures inside the process, with or without ours.

It comes after ours in the config, and serves `PATH` on each HTTP listener: a POST with a JSON
object, whose `do` names one of the methods below and whose other members are its arguments.
"""

import ctypes
import gc
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from synapse.module_api import DirectServeJsonResource, ModuleApi
from synapse.types import create_requester
from typing_extensions import Self

from synapse_msc3881.cascade.outcomes import MARK
from synapse_msc3881.cascade.rulesets import DeviceRule
from synapse_msc3881.delivery.pusher_store import backlog_of
from synapse_msc3881.evaluation.held_scopes import HeldScopes
from synapse_msc3881.seams import RuleCompiler
from tests.bench.counting import (
    STARTUP,
    Statements,
    count_our_calls,
    count_startup,
    counted_calls,
)
from tests.harness.compiling import compile_user

PATH = "/_bench"

JsonDict = dict[str, Any]

_COUNTED_TIMES = 3
# So that the caches are full before the profiler looks.
_WARM_UP = 3


class Probe:
    """Config: `count_statements`, whether to count SQL statements from the start."""

    @staticmethod
    def parse_config(config: Any) -> Any:
        """Called before any module is made: have our own statements at startup counted."""
        if (config or {}).get("count_statements"):
            count_startup()
        return config

    def __init__(self, config: Any, api: ModuleApi) -> None:
        self._hs = api._hs
        self.statements = Statements()
        if (config or {}).get("count_statements"):
            self.statements.install()
        # What was counted before: our module reads its tables when it is made.
        self.statements.counts.update(STARTUP)
        self.start: JsonDict = {}
        self._time_start_of_pushers()
        api.register_web_resource(PATH, _ProbeResource(self))

    # What a request may ask for

    async def evaluate(self, sender: str, room_id: str, content: JsonDict, repeat: int) -> JsonDict:
        """Evaluate one event again and again, and say how long each time took.

        Args:
            sender: who sends it.
            room_id: where.
            content: the event's content.
            repeat: how often.

        Returns:
            `wall` and `cpu`, in seconds, the latter of all threads; and `staged`, how many users
            got a row of push actions, with `marked` of them holding device scopes' outcomes.
        """
        wall, cpu, staged, marked = [], [], 0, 0
        async with _Event(self._hs, sender, room_id, content) as event:
            for _ in range(repeat):
                cpu_before, before = time.process_time(), time.perf_counter()
                await event.evaluate()
                wall.append(time.perf_counter() - before)
                cpu.append(time.process_time() - cpu_before)
                staged, marked = await event.forget()
        return {"wall": wall, "cpu": cpu, "staged": staged, "marked": marked}

    async def count_calls(self, sender: str, room_id: str, content: JsonDict) -> JsonDict:
        """Evaluate one event several times, and count the calls made by Synapse and by us.

        Only those of the main thread, and of each function the smallest number: the garbage
        collector may call some on top.

        Returns:
            How many "python" functions were called, and how many functions in "c".
        """
        counts: Counter[tuple[str, Any]] | None = None
        async with _Event(self._hs, sender, room_id, content) as event:
            for _ in range(_COUNTED_TIMES):
                await event.evaluate()
                await event.forget()
                with counted_calls() as calls:
                    await event.evaluate()
                await event.forget()
                counts = calls if counts is None else counts & calls
        assert counts is not None
        return {
            kind: sum(count for (of_kind, _), count in counts.items() if of_kind == kind)
            for kind in ("python", "c")
        }

    async def watch_calls(self) -> JsonDict:
        """Count the calls of the module's functions from now on, in the main thread."""
        self._our_calls = count_our_calls()
        return {}

    async def calls_of_ours(self) -> JsonDict:
        """What was counted since: each function, as "file:name", and how often it was called."""
        return {"calls": list(self._our_calls().items())}

    async def statements_so_far(self) -> JsonDict:
        """How many SQL statements ran since the start, by where from and by transaction."""
        return {"counts": self.statements.as_json()}

    async def start_of_pushers(self) -> JsonDict:
        """How starting the pushers went: empty until all are started."""
        return self.start

    async def pushers_are_done(self, user_ids: list[str]) -> JsonDict:
        """Whether each of the users' pushers has dealt with all events that there are."""
        of_users = self._hs.get_pusherpool().pushers
        upto = self._hs.get_datastores().main.get_room_max_stream_ordering()
        pushers: list[Any] = [
            pusher for user_id in user_ids for pusher in of_users[user_id].values()
        ]
        # One that has just pushed takes its new position before it writes it.
        at_work = any(pusher._is_processing for pusher in pushers)
        return {"done": not at_work and min(map(_position, pushers)) >= upto}

    async def memory(self, users: int, rules: int, kind: str, own: bool, kept: int) -> JsonDict:
        """What users with device rules take, held and compiled; ask a process once.

        Args:
            users: how many.
            rules: how many rules each has in one scope; no compiling where it is 0.
            kind: "room", or "override" for rules with a pattern.
            own: whether each user has other rules than the rest.
            kept: how many compiled users the cache keeps.

        Returns:
            `held`: the bytes of Python's objects, by Python's own account. `compiled`: the bytes
            by which the process grew, since Rust's objects are on no such account; `kept`: the
            number of users whose scopes are compiled in the end.
        """
        tracemalloc.start()
        held = HeldScopes({f"@benchmark-user-{n:06d}:example.org" for n in range(users)}, kept)
        held_bytes = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        before = _resident()
        if rules:
            compiler = RuleCompiler(self._hs)
            for user_id in held.users:
                stored = list(_device_rules(kind, rules, "phone", user_id if own else ""))
                held.keep(user_id, compile_user(stored, [("phone", "global")], compiler.compile))
        compiled = _resident() - before
        return {"held": held_bytes, "compiled": compiled, "kept": len(held.compiled)}

    async def profile(
        self, sender: str, room_id: str, content: JsonDict, seconds: float
    ) -> JsonDict:
        """Evaluate one event again and again under a sampling profiler.

        Returns:
            `functions`: for each of them "file:name", the part of the time that it took itself,
            of the time that the main thread did not wait.
        """
        # Only where it is asked for: it is not among what the tests need.
        from pyinstrument import Profiler  # noqa: PLC0415

        profiler = Profiler(interval=0.0005, async_mode="disabled")
        async with _Event(self._hs, sender, room_id, content) as event:
            for _ in range(_WARM_UP):
                await event.evaluate()
                await event.forget()
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                profiler.start()
                await event.evaluate()
                profiler.stop()
                await event.forget()
        assert profiler.last_session is not None
        own: Counter[str] = Counter()
        _add_own_times(profiler.last_session.root_frame(), own)
        own = Counter({name: taken for name, taken in own.items() if not name.endswith("poll")})
        total = sum(own.values())
        return {"functions": [(name, taken / total) for name, taken in own.most_common()]}

    def _time_start_of_pushers(self) -> None:
        pool: Any = self._hs.get_pusherpool()
        native = pool._start_pushers

        async def start_pushers() -> None:
            cpu, wall = time.process_time(), time.perf_counter()
            await native()
            self.start = {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "statements": self.statements.of_context("start_pushers"),
                "pushers": sum(len(pushers) for pushers in pool.pushers.values()),
            }

        pool._start_pushers = start_pushers


class _ProbeResource(DirectServeJsonResource):
    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self._probe = probe

    async def _async_render_POST(self, request: Any) -> tuple[int, JsonDict]:
        arguments = json.loads(request.content.read())
        do: Callable[..., Any] = getattr(self._probe, arguments.pop("do"))
        return 200, await do(**arguments)


class _Event:
    """An event that is evaluated as if it were sent, and never is."""

    def __init__(self, hs: Any, sender: str, room_id: str, content: JsonDict) -> None:
        self._hs = hs
        self._store = hs.get_datastores().main
        self._evaluator = hs.get_bulk_push_rule_evaluator()
        self._sender = sender
        self._room_id = room_id
        self._content = content

    async def __aenter__(self) -> Self:
        event_dict = {
            "type": "m.room.message",
            "room_id": self._room_id,
            "sender": self._sender,
            "content": self._content,
        }
        handler = self._hs.get_event_creation_handler()
        self._event, context = await handler.create_event(
            create_requester(self._sender), event_dict
        )
        self._context = await context.persist(self._event)
        # So that garbage of the requests before is not collected while the clock runs.
        gc.collect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.forget()

    async def evaluate(self) -> None:
        await self._evaluator.action_for_events_by_user([(self._event, self._context)])

    async def forget(self) -> tuple[int, int]:
        """Remove the rows of push actions; returns how many there were, and how many of ours."""
        rows = await self._store.db_pool.simple_select_onecol(
            "event_push_actions_staging", {"event_id": self._event.event_id}, "actions"
        )
        await self._store.remove_push_actions_from_staging(self._event.event_id)
        return len(rows), sum(MARK in actions for actions in rows)


def _add_own_times(frame: Any, own: Counter[str]) -> None:
    """Add up what each function took itself, in seconds."""
    if frame is None or frame.is_synthetic:
        return
    own[f"{_short(frame.file_path)}:{frame.function}"] += frame.total_self_time
    for child in frame.children:
        _add_own_times(child, own)


def _short(path: str | None) -> str:
    """A file's path from its package on."""
    parts = Path(path or "").parts
    packages = [n for n, part in enumerate(parts) if part in {"site-packages", "python3"}]
    start = packages[-1] + 1 if packages else max(0, len(parts) - 2)
    return "/".join(parts[start:])


def _position(pusher: Any) -> int:
    """Up to where a pusher has dealt with the event stream."""
    position: int = pusher.last_stream_ordering
    backlog = backlog_of(pusher)
    # What it has decided to push and has not pushed is not dealt with.
    return position if backlog is None else backlog.position(position)


def _device_rules(kind: str, count: int, tag: str, owner: str) -> Iterator[DeviceRule]:
    for n in range(count):
        rule_id = f"!room-{n:05d}-abcdefgh:example.org" if kind == "room" else f"rule-{n}"
        pattern = f"pattern {n} {owner}"
        condition = {"kind": "event_match", "key": "content.body", "pattern": pattern}
        if kind == "room":
            condition = {"kind": "event_match", "key": "room_id", "pattern": rule_id}
        yield DeviceRule(tag, kind, rule_id, n, json.dumps([condition]), '["notify"]', True)


def _resident() -> int:
    """The bytes of memory that this process has, once it gave back what it does not need."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
