# SPDX-License-Identifier: AGPL-3.0-or-later
"""Counts SQL statements and calls inside the process that the probe is in."""

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

import synapse
from synapse.logging.context import current_context
from synapse.storage.database import LoggingTransaction

import synapse_msc3881
from synapse_msc3881 import seams

# Only calls from code of these are counted: what the reactor does meanwhile is chance.
_COUNTED = tuple(
    f"{Path(package.__file__ or '').parent}{os.sep}" for package in (synapse, synapse_msc3881)
)

# Twisted hands the context on with a coroutine: what else the process does has another value.
_is_counted: ContextVar[bool] = ContextVar("bench_is_counted", default=False)


class Statements:
    """Counts SQL statements by the logging context that they run for, and by transaction."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[tuple[str, str]] = Counter()

    def of_context(self, name: str) -> int:
        """How many statements ran for logging contexts of that name."""
        with self._lock:
            return sum(count for (context, _), count in self.counts.items() if context == name)

    def install(self) -> None:
        native = LoggingTransaction._do_execute

        def do_execute(txn: Any, *args: Any, **kwargs: Any) -> Any:
            # Both end in a number of their own: "PUT-12", "get_event-3f".
            context = str(current_context()).rpartition("-")[0] or str(current_context())
            with self._lock:
                self.counts[context, txn.name.rpartition("-")[0]] += 1
            return native(txn, *args, **kwargs)

        LoggingTransaction._do_execute = do_execute  # type: ignore[assignment,method-assign]

    def as_json(self) -> list[tuple[str, str, int]]:
        with self._lock:
            return [(*key, count) for key, count in self.counts.items()]


#: What the module ran before Synapse's start, by context and transaction.
STARTUP: Counter[tuple[str, str]] = Counter()

#: The context under which the module's statements before Synapse's start are counted.
AT_STARTUP = "startup"


def count_startup() -> None:
    """Count what the module runs before Synapse serves anything, on a bare connection."""
    native = seams.connection_of_this_thread

    def connection_of_this_thread(hs: Any) -> tuple[Any, Callable[[], None]]:
        connection, give_back = native(hs)
        return _CountingConnection(connection), give_back

    seams.connection_of_this_thread = connection_of_this_thread


class _CountingConnection:
    def __init__(self, native: Any) -> None:
        self._native = native

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def cursor(self) -> "_CountingCursor":
        return _CountingCursor(self._native.cursor())


class _CountingCursor:
    def __init__(self, native: Any) -> None:
        self._native = native

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def execute(self, *args: Any) -> Any:
        STARTUP[AT_STARTUP, "msc3881_startup"] += 1
        return self._native.execute(*args)


@contextmanager
def counted_calls() -> Iterator[Counter[tuple[str, Any]]]:
    """Count what this thread calls: ("python", a code object), ("c", its caller's code object)."""
    counts: Counter[tuple[str, Any]] = Counter()
    kinds = {"call": "python", "c_call": "c"}

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event in kinds and frame.f_code.co_filename.startswith(_COUNTED) and _is_counted.get():
            counts[kinds[event], frame.f_code] += 1

    token = _is_counted.set(True)
    sys.setprofile(profile)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        _is_counted.reset(token)


def count_our_calls() -> Callable[[], Counter[str]]:
    """Count the calls of the module's functions in this thread, from now on.

    Returns:
        Ends that; returns each function, as "file:name", and how often it was called.
    """
    ours = _COUNTED[1]
    counts: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        # Not comprehensions, which are no calls in newer versions of Python.
        if event == "call" and code.co_filename.startswith(ours) and code.co_name[0] != "<":
            counts[f"{code.co_filename.removeprefix(ours)}:{code.co_name}"] += 1

    def end() -> Counter[str]:
        sys.setprofile(None)
        return counts

    sys.setprofile(profile)
    return end
