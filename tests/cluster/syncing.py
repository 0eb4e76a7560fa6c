# SPDX-License-Identifier: AGPL-3.0-or-later
"""Waits for what one process learns of another: syncs, and answers that change."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from demo.client import JsonDict, Session

T = TypeVar("T")

#: Replication over loopback takes milliseconds; the machine may be busy with other things.
DELAY_SECONDS = 20.0


def assert_eventually(found: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """Ask again until the answer is as wanted, for as long as replication may take."""
    deadline = time.monotonic() + DELAY_SECONDS
    while not wanted(answer := found()):
        assert time.monotonic() < deadline, f"not within {DELAY_SECONDS} s; last: {answer!r}"
        time.sleep(0.005)
    return answer


@contextmanager
def waiting_sync(session: Session, since: str) -> Iterator[Callable[[], JsonDict]]:
    """A sync that waits on a process; call what this gives for its answer."""
    with ThreadPoolExecutor(1) as pool:
        asked = threading.Event()
        native = session.route

        def route(method: str, where: str) -> str:
            asked.set()
            return native(method, where)

        session.route = route
        answer = pool.submit(session.sync, since, 20_000)
        asked.wait(5)
        yield lambda: answer.result(30)


def until_push_rules(session: Session, answer: JsonDict) -> JsonDict:
    """The first sync with push rules from this one on: others may bring presence or devices."""
    deadline = time.monotonic() + DELAY_SECONDS
    while push_rules_in(answer) is None:
        assert time.monotonic() < deadline, f"no push rules within {DELAY_SECONDS} s"
        answer = session.sync(answer["next_batch"], 1_000)
    return answer


def push_rules_in(answer: JsonDict) -> JsonDict | None:
    events = answer.get("account_data", {}).get("events", [])
    return next((e["content"] for e in events if e["type"] == "m.push_rules"), None)
