# SPDX-License-Identifier: AGPL-3.0-or-later
"""The homeserver behind the module API, and the ways from it to whatever else is touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from synapse.metrics import background_process_metrics
from synapse.util.async_helpers import Linearizer

from synapse_msc3881.seams.declaring import Seam

if TYPE_CHECKING:
    from synapse.server import HomeServer

SEAMS: tuple[Seam, ...] = (
    Seam("synapse.module_api:ModuleApi", "`_hs` is the homeserver", attributes=("_hs",)),
    Seam("synapse.server:HomeServer", "`config` has the sections", attributes=("config",)),
    Seam("synapse.server:HomeServer.get_datastores", "gives the databases"),
    Seam("synapse.storage.databases:Databases", "`main` is the store", attributes=("main",)),
    Seam("synapse.server:HomeServer.get_clock", "the clock that Synapse's tools ask for"),
    Seam("synapse.server:HomeServer.get_instance_name", "the process's name"),
    Seam("synapse.server:HomeServer.get_reactor", "Twisted's reactor"),
    Seam(
        "twisted.internet.base:ReactorBase.addSystemEventTrigger",
        "what is to be done before a shutdown is waited for",
        parameters=("phase", "eventType", "callable"),
    ),
    Seam(
        "synapse.metrics.background_process_metrics:run_as_background_process",
        "runs a function in a logging context of its own; newer ones want that of the homeserver",
        parameters=("desc", "func"),
    ),
    Seam(
        "synapse.util.async_helpers:Linearizer",
        "one at a time for each key; since 1.140 it wants the clock, which older ones take too",
        parameters=("name", "clock"),
    ),
    Seam(
        "synapse.util.caches.descriptors:DeferredCacheListDescriptor",
        "makes methods that only an object has, so the check must not ask a class for them",
    ),
    Seam(
        "synapse.util.async_helpers:Linearizer.queue",
        "an async context manager",
        parameters=("key",),
    ),
)


def main_store(hs: HomeServer) -> Any:
    """Synapse's store, through which everything in the database is read and written."""
    return hs.get_datastores().main


def before_shutdown(hs: HomeServer, name: str, function: Callable[[], Awaitable[None]]) -> None:
    """Have something done when the process is told to stop; it waits until that is done."""
    newer = getattr(hs, "run_as_background_process", None)
    run: Any = newer or background_process_metrics.run_as_background_process
    reactor: Any = hs.get_reactor()
    reactor.addSystemEventTrigger("before", "shutdown", run, name, function)


def make_linearizer(hs: HomeServer, name: str) -> Linearizer:
    """A queue for each key: `async with linearizer.queue(key)`."""
    return Linearizer(name=name, clock=hs.get_clock())
