# SPDX-License-Identifier: AGPL-3.0-or-later
"""The check of Synapse's internals at startup."""

import importlib.metadata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attr
import pytest
import synapse.rest
from synapse.push import bulk_push_rule_evaluator
from synapse.push.pusherpool import PusherPool
from synapse.storage.databases.main import DataStore

from synapse_msc3881 import seams
from synapse_msc3881.module import _register_servlets
from synapse_msc3881.seams import Seam, SeamError, inspect_seams, process_config, verify
from synapse_msc3881.seams.declaring import inspect_each

OLDEST = Seam("", "").since
IN_A_HOMESERVER = [seam.where for seam in seams.SEAMS if seam.where.startswith("hs:")]


@pytest.fixture
def hs() -> Any:
    """As much of a homeserver as the seams below `hs:` ask for."""
    writers = SimpleNamespace(push_rules=["master"])
    worker = SimpleNamespace(writers=writers)
    return SimpleNamespace(config=SimpleNamespace(worker=worker, experimental=object()))


def api(hs: Any) -> Any:
    return SimpleNamespace(_hs=hs)


def problems(hs: Any = None) -> dict[str, str]:
    return {s.seam.where: s.problem for s in inspect_seams(hs) if s.problem is not None}


def test_nothing_is_wrong_with_this_synapse(hs: Any) -> None:
    assert problems() == {}
    assert problems(hs) == {}
    assert verify(api(hs)) is hs


def test_every_seam_is_declared_once_and_says_what_it_is_for() -> None:
    declared = (*seams.SEAMS, *process_config.SEAMS)
    assert len({seam.where for seam in declared}) == len(declared)
    assert all(seam.relies_on for seam in declared)
    assert IN_A_HOMESERVER


@pytest.mark.parametrize(
    "seam",
    [s for s in seams.SEAMS if s.since != OLDEST and not s.where.startswith("hs:")],
    ids=lambda seam: seam.where,
)
def test_what_came_later_is_there_since_then_and_was_not_before(seam: Seam) -> None:
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    (status,) = inspect_each([attr.evolve(seam, optional=False)])
    came = numbers(importlib.metadata.version("matrix-synapse")) >= numbers(seam.since)
    assert (status.problem is None) is came


def test_without_a_homeserver_its_own_seams_are_left_out(hs: Any) -> None:
    without = {status.seam.where for status in inspect_seams()}
    assert without.isdisjoint(IN_A_HOMESERVER)
    assert {status.seam.where for status in inspect_seams(hs)} == without | set(IN_A_HOMESERVER)


def test_a_missing_method_is_named_with_the_versions(
    hs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(PusherPool, "remove_pusher")
    with pytest.raises(SeamError) as caught:
        verify(api(hs))
    message = str(caught.value)
    assert "synapse.push.pusherpool:PusherPool.remove_pusher: missing" in message
    assert f"Synapse {importlib.metadata.version('matrix-synapse')}" in message
    for version in seams.TESTED_VERSIONS:
        assert version in message


def test_a_method_with_other_parameters_is_named_with_them(
    hs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_pusher(self: Any, app_id: str, key: str) -> None: ...

    monkeypatch.setattr(PusherPool, "remove_pusher", remove_pusher)
    with pytest.raises(SeamError, match=r"remove_pusher: does not take pushkey, user_id; it takes"):
        verify(api(hs))


def test_a_method_that_does_its_work_in_another_way_is_named_with_what_it_lacks(
    hs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our statements join its transaction, so it must have one where we look for it."""

    async def add_pusher(self: Any, user_id: str, app_id: str, pushkey: str) -> None:
        await self.db_pool.execute(user_id, app_id, pushkey)

    monkeypatch.setattr(DataStore, "add_pusher", add_pusher)
    with pytest.raises(SeamError, match=r"add_pusher: does not use simple_upsert any more"):
        verify(hs)


def test_all_that_is_broken_is_named_at_once(hs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (
        Seam("synapse.no.such.module:thing", "a module"),
        Seam("synapse.push:no_such_thing", "an attribute"),
        Seam("synapse.push:Pusher.no.such", "an attribute of an attribute"),
        Seam("hs:get_no_such_thing().x", "a method of the homeserver"),
        Seam("hs:config.no_such_thing", "an attribute of what it has"),
        Seam("synapse.push:Pusher", "an attribute of its objects", attributes=("no_such",)),
        Seam("synapse.push:Pusher.on_stop", "a parameter", parameters=("why",)),
        Seam("synapse.push:Pusher.on_stop", "a call", calls=("no_such_thing",)),
        Seam("synapse.push:Pusher", "a call of no function", calls=("no_such_thing",)),
    )
    monkeypatch.setattr(seams, "SEAMS", broken)
    with pytest.raises(SeamError) as caught:
        verify(api(hs))
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert len(lines) == len(broken)
    for seam, line in zip(broken, lines, strict=True):
        assert line.startswith(f"  - {seam.where}: ")


@pytest.mark.parametrize("seam", [*seams.SEAMS, *process_config.SEAMS], ids=lambda seam: seam.where)
def test_each_seam_is_found_broken_when_it_is_gone(
    seam: Seam, hs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Seam(f"{seam.where}_gone", seam.relies_on, parameters=seam.parameters)
    monkeypatch.setattr(seams, "SEAMS", (gone,))
    assert set(problems(hs)) == {gone.where}


def test_the_check_finds_nothing_wrong_once_the_module_is_installed(
    hs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is changed is changed in the process, so put it back after the test.
    evaluators: Any = bulk_push_rule_evaluator
    monkeypatch.setattr(evaluators, "PushRuleEvaluator", evaluators.PushRuleEvaluator)
    monkeypatch.setattr(synapse.rest, "SERVLET_GROUPS", dict(synapse.rest.SERVLET_GROUPS))

    def register(_hs: object, _http_server: object) -> None: ...

    for _ in range(2):
        seams.wrap_evaluators(lambda evaluator, _keys: evaluator)
        seams.register_servlets(register)
    assert problems(hs) == {}
    # Twice is once.
    assert not hasattr(evaluators.PushRuleEvaluator.native, "native")
    assert list(synapse.rest.SERVLET_GROUPS["client"]).count(register) == 1


class Store:
    def get_enabled_pushers(self, kind: str) -> str:
        return f"native {kind}"


def homeserver(store: Store) -> Any:
    return SimpleNamespace(get_datastores=lambda: SimpleNamespace(main=store))


def test_a_wrapper_is_put_on_one_object_only() -> None:
    def wrapper(native: Callable[[str], str], kind: str) -> str:
        return f"wrapped {native(kind)}"

    wrapped, other = Store(), Store()
    seams.wrap(homeserver(wrapped), seams.pushers.GET_ENABLED_PUSHERS, wrapper)
    assert (wrapped.get_enabled_pushers("a"), other.get_enabled_pushers("a")) == (
        "wrapped native a",
        "native a",
    )


def test_what_is_not_declared_cannot_be_wrapped() -> None:
    store = Store()
    with pytest.raises(
        SeamError, match=r"Store\.get_enabled_pushers is wrapped and not declared for that"
    ):
        seams.wrap(
            homeserver(store), Seam("some:Store.get_enabled_pushers", "x"), lambda native: native
        )
    assert store.get_enabled_pushers("a") == "native a"


def test_a_homeserver_without_the_module_keeps_its_servlets() -> None:
    class HttpServer:
        def register_paths(self, *_args: object) -> None:
            raise AssertionError("something was registered")

    homeserver: Any = SimpleNamespace()
    http_server: Any = HttpServer()
    _register_servlets(homeserver, http_server)


def test_what_is_to_be_done_at_a_shutdown_is_done_by_whatever_runs_it_here() -> None:
    """Up to 1.135 by a function, from 1.136 by one that wants the server, since 1.140 by it."""
    done: list[str] = []

    async def write() -> None:
        done.append("written")

    triggers: list[tuple[Any, ...]] = []
    reactor = SimpleNamespace(addSystemEventTrigger=lambda *trigger: triggers.append(trigger))
    old: Any = SimpleNamespace(get_reactor=lambda: reactor, hostname="synapse.test")
    seams.before_shutdown(old, "msc3881_write", write)
    ((phase, event, run, *arguments),) = triggers
    run(*arguments)
    assert (phase, event, done) == ("before", "shutdown", ["written"])
