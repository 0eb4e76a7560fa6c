# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether the bytes that compiled scopes are counted as are what a process grows by.

Most of them are Rust's and on no account of Python's, so each case is a process of its own.
"""

import ctypes
import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from synapse_msc3881.cascade.rulesets import DeviceRule, to_json
from synapse_msc3881.evaluation.compilation import Compilation
from synapse_msc3881.evaluation.compiling import Compiler
from tests.harness.occasions import EXTENSIBLE_OFF

#: Users, the kind of their rules, how many, with how many conditions, of how long a pattern.
CASES = {
    "a keyword": (2000, "word", 1, 1, 12),
    "a few keywords": (1000, "word", 5, 1, 12),
    "many keywords": (10, "word", 1000, 1, 12),
    "up to the limits": (1, "word", 3000, 14, 12),
    "long patterns": (10, "word", 500, 1, 900),
    "wildcards": (10, "wild", 500, 1, 12),
    "values": (10, "value", 500, 5, 30),
    "muted rooms": (10, "room", 5000, 0, 0),
}


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how large the process is")
@pytest.mark.parametrize("case", CASES)
def test_what_is_compiled_is_counted_as_what_it_takes(case: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.unit.test_memory", case],
        check=True,
        capture_output=True,
        text=True,
    )
    counted, taken = map(int, process.stdout.split())
    assert 0.7 < counted / taken < 1.5, f"{counted} bytes were counted, and {taken} taken"


def measure(users: int, kind: str, number: int, conditions: int, length: int) -> tuple[int, int]:
    """The bytes that are counted, and by which the process grows."""
    compiler = Compiler(EXTENSIBLE_OFF.compiler.compile)
    before = resident()
    compiled = []
    for user in range(users):
        rules = made_up(user, kind, number, conditions, length)
        compilation = Compilation(compiler, rules, [("phone", "global")], lambda *_: None)
        for _ in compilation.steps():
            pass
        scopes = compilation.so_far()
        assert scopes is not None
        compiled.append(scopes)
        del compilation, rules
    return sum(scopes.size for scopes in compiled), resident() - before


def made_up(
    user: int, kind: str, number: int, conditions: int, length: int
) -> Iterator[DeviceRule]:
    actions = '["notify",{"set_tweak":"sound","value":"default"}]'
    for n in range(number):
        if kind == "room":
            room = f"!room-{n:05d}-{user:05d}-abcdefgh:example.org"
            yield DeviceRule("phone", "room", room, n, "[]", actions, True)
            continue
        match = {"kind": "event_match", "key": "room_id" if kind == "value" else "content.body"}
        wild = "*" if kind == "wild" else ""
        words = (f"word{wild} {n} {user} {c}".ljust(length, "x") for c in range(conditions))
        stored = to_json([{**match, "pattern": word} for word in words])
        yield DeviceRule("phone", "override", f"rule-{n}", n, stored, actions, True)


def resident() -> int:
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    print(*measure(*CASES[sys.argv[1]]))
