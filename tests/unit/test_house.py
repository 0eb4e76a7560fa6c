# SPDX-License-Identifier: AGPL-3.0-or-later
"""The house: what may touch Synapse, and which folder may import which."""

import graphlib
import re
from pathlib import Path

import pytest

from synapse_msc3881 import seams
from tests.harness.source import NAME, PACKAGE, complaints, imports, modules

#: From the top to the bottom: what imports stands above what it imports. Those in one line stand
#: beside each other, and import nothing of each other.
LAYERS = (
    ("__main__",),
    ("module", "admin"),  # At startup; for admins.
    ("rest", "page"),  # The endpoints.
    ("delivery", "push_rules"),  # Fire time; what clients see.
    ("evaluation", "census"),  # Event time; what is counted now and then.
    ("storage",),
    ("metrics",),
    ("cascade", "config", "failures", "seams"),  # Pure; the options; Synapse.
    ("tested",),
)

TESTS = PACKAGE.parent / "tests"

OUTSIDE = f"{NAME}.delivery.planted"
INSIDE = f"{NAME}.seams.planted"


# --- The promise about Synapse's internals ------------------------------------------------------


@pytest.mark.parametrize(("module", "file"), modules().items(), ids=modules())
def test_what_is_touched_of_synapse_is_declared(module: str, file: Path) -> None:
    """Reach for it in `seams/`, and declare it there: a `Seam`, or a `Table` for columns."""
    assert complaints(module, file.read_text()) == []


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("from synapse.push.httppusher import HttpPusher", "HttpPusher is imported outside seams/"),
        ("import synapse.rest", "synapse.rest is imported outside seams/"),
        ("def f():\n    from synapse.push import Pusher", "Pusher is imported outside seams/"),
        ("importlib.import_module('synapse.push')", "synapse.push is imported outside seams/"),
        ("def f(hs):\n    hs.get_datastores()", "reaches into the homeserver"),
        ("class A:\n    def f(self):\n        self._hs.config", "reaches into the homeserver"),
        ("def f(h: HomeServer):\n    h.hostname", "reaches into the homeserver"),
        ("def f(api: ModuleApi):\n    api._store", "`api._store` is not in the module API"),
        ("def f(api):\n    api.no_such_thing()", "is not in the module API"),
        ("def f(hs):\n    getattr(hs, 'config')", "reaches into the homeserver"),
        ("def f(p: seams.Pusher):\n    setattr(p, 'secret', 1)", "secret is declared by no seam"),
        (
            "def f(hs):\n    p = seams.running_pusher(hs, 1, 2, 3)\n    p.secret",
            "secret is declared by no seam",
        ),
        (
            "def f(hs):\n    if (p := seams.running_pusher(hs, 1, 2, 3)):\n        p.secret",
            "secret is declared by no seam",
        ),
        (
            "def f(hs):\n    for p in seams.all_running_pushers(hs):\n        p.secret",
            "secret is declared by no seam",
        ),
        ("def f(p: seams.Pusher):\n    p.secret", "secret is declared by no seam"),
        ("def f(p: seams.Pusher | None):\n    p.secret", "secret is declared by no seam"),
        ("def f(pusher):\n    pusher.secret = 1", "secret is declared by no seam"),
        (
            "def f(ps: Iterable[seams.PusherConfig]):\n    for p in ps:\n        p.secret",
            "secret is declared by no seam",
        ),
        (
            "class A:\n def __init__(self, p: seams.Pusher): self.p = p\n def f(self): self.p.x",
            "x is declared by no seam",
        ),
        (
            "class A(seams.PushersRestServlet):\n    def f(self):\n        self.secret()",
            "secret is declared by no seam",
        ),
        ("async def f(self):\n    await self._store.secret()", "secret is declared by no seam"),
        (
            "def f(hs):\n    seams.main_store(hs).secret()",
            "secret is declared by no seam",
        ),
        ('x = "SELECT a FROM room_memberships"', "the table room_memberships is not declared"),
        ('x = "SELECT lang FROM pushers"', "the column lang is not declared"),
        ('x = "SELECT p.lang FROM pushers AS p"', "the column pushers.lang is not declared"),
        (
            'x = f"SELECT user_name FROM pushers WHERE lang = ? {more}"',
            "the column lang is not declared",
        ),
        ('x = "UPDATE pushers SET secret = 1"', "the column secret is not declared"),
    ],
)
def test_an_internal_that_is_used_outside_the_seams_is_found(source: str, what: str) -> None:
    found = complaints(OUTSIDE, source)
    assert any(what in complaint for complaint in found), found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("from synapse.push import mailer", "mailer is imported and not declared"),
        ("def f(hs):\n    hs.get_secret_handler()", "get_secret_handler is declared by no seam"),
        ("def f(hs):\n    hs.get_pusherpool().secret()", "secret is declared by no seam"),
        ("def f(hs):\n    hs.config.secret", "secret is declared by no seam"),
        ("def f(hs):\n    s = main_store(hs)\n    s.secret()", "secret is declared by no seam"),
    ],
)
def test_what_no_seam_declares_is_found_in_the_seams_too(source: str, what: str) -> None:
    found = complaints(INSIDE, source)
    assert any(what in complaint for complaint in found), found


@pytest.mark.parametrize(
    "source",
    [
        "from synapse.module_api import ModuleApi, UserID",
        "from synapse.module_api.errors import Codes",
        "if TYPE_CHECKING:\n    from synapse.server import HomeServer",
        "def f(api: ModuleApi):\n    api.run_db_interaction",
        "def f(hs):\n    seams.running_pusher(hs, 1, 2, 3)",
        "def f(p: seams.Pusher):\n    p.app_id",
        "def f(pusher: Ours):\n    pusher.tags",
        'x = "SELECT p.enabled FROM pushers AS p"',
    ],
)
def test_what_may_be_used_is_let_pass(source: str) -> None:
    assert complaints(OUTSIDE, source) == []


def test_every_seam_that_a_file_declares_is_checked() -> None:
    """A seam that is given a name, and forgotten in the file's list, would not be."""
    for name, file in modules().items():
        if name.startswith(f"{NAME}.seams") and not name.endswith("declaring"):
            module = __import__(name, fromlist=["*"])
            declared = {value for value in vars(module).values() if isinstance(value, seams.Seam)}
            assert declared <= set(getattr(module, "SEAMS", ())), file
            if not name.endswith(("seams", "process_config")):
                assert set(getattr(module, "SEAMS", ())) <= set(seams.SEAMS), file


# --- The folders --------------------------------------------------------------------------------


def arrows() -> dict[str, set[str]]:
    """Which module imports which; that of the class, which Synapse asks for late, left out."""
    known = modules()
    found = {name: imports(name, file.read_text(), known) for name, file in known.items()}
    found[NAME] = set()
    return found


def folder(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def upward(found: dict[str, set[str]]) -> list[str]:
    """The arrows that do not run downwards, from one layer to one below."""
    height = {name: -index for index, names in enumerate(LAYERS) for name in names}
    height[""] = -len(LAYERS)  # The package itself: its version.
    return [
        f"{module} imports {imported}"
        for module, targets in sorted(found.items())
        for imported in sorted(targets)
        if folder(module) != folder(imported) and height[folder(imported)] >= height[folder(module)]
    ]


def test_every_folder_has_its_place() -> None:
    assert {folder(module) for module in modules()} - {""} == {n for ns in LAYERS for n in ns}


def test_the_map_of_the_files_is_right() -> None:
    text = (PACKAGE.parent / "docs" / "how-it-works.md").read_text()
    listed = text.partition("## Map of the files")[2].partition("    demo/")[0]
    named = re.findall(r"^ +(\w+)\.py ", listed, re.MULTILINE)
    there = [file.stem for file in modules().values() if file.parent == PACKAGE]
    there += [f.stem for f in modules().values() if f.parent != PACKAGE and f.stem != "__init__"]
    assert sorted(named) == sorted(there)


def test_no_arrow_runs_upwards() -> None:
    assert upward(arrows()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graphlib.TopologicalSorter(arrows()).prepare()


def test_an_arrow_upwards_and_a_circle_are_found() -> None:
    planted = imports(f"{NAME}.storage.migrations", f"from {NAME}.rest import pushers", modules())
    assert upward({f"{NAME}.storage.migrations": planted}) == [
        f"{NAME}.storage.migrations imports {NAME}.rest.pushers"
    ]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_no_test_file_imports_another() -> None:
    """What several need has a home: `tests/harness`, a `conftest.py`, a file of helpers."""
    importing = re.compile(r"^\s*(?:from|import) tests\.\S*\btest_", re.MULTILINE)
    assert [file for file in TESTS.rglob("*.py") if importing.search(file.read_text())] == []


def test_a_starting_synapse_does_not_import_what_only_admins_need() -> None:
    found, seen = arrows(), {f"{NAME}.module"}
    waiting = list(seen)
    while waiting:
        for imported in found[waiting.pop()] - seen:
            seen.add(imported)
            waiting.append(imported)
    assert f"{NAME}.seams.pushers" in seen
    assert not {name for name in seen if folder(name) == "admin" or "process_config" in name}
