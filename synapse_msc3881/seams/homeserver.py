# SPDX-License-Identifier: AGPL-3.0-or-later
"""The homeserver behind the module API, and the ways from it to whatever else is touched."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from synapse.metrics import background_process_metrics
from synapse.util.async_helpers import Linearizer

from synapse_msc3881.seams.declaring import Seam

if TYPE_CHECKING:
    from synapse.server import HomeServer

SEAMS: tuple[Seam, ...] = (
    Seam("synapse.module_api:ModuleApi", "`_hs` is the homeserver", attributes=("_hs",)),
    Seam(
        "synapse.server:HomeServer",
        "`config` has the sections, `hostname` is its name",
        attributes=("config", "hostname"),
    ),
    Seam("synapse.server:HomeServer.get_datastores", "gives the databases"),
    Seam("synapse.storage.databases:Databases", "`main` is the store", attributes=("main",)),
    Seam("synapse.server:HomeServer.get_clock", "the clock that Synapse's helpers need"),
    Seam("synapse.server:HomeServer.get_instance_name", "the process's name"),
    Seam("synapse.server:HomeServer.get_reactor", "Twisted's reactor"),
    Seam(
        "twisted.internet.base:ReactorBase.addSystemEventTrigger",
        "runs something before a shutdown, which waits for it",
        parameters=("phase", "eventType", "callable"),
    ),
    Seam(
        "synapse.metrics.background_process_metrics:run_as_background_process",
        "runs a function in its own logging context; newer versions have the homeserver's instead",
        parameters=("desc", "func"),
    ),
    Seam(
        "synapse.util.async_helpers:Linearizer",
        "one at a time for each key; since 1.140 it requires the clock, which older ones also take",
        parameters=("name", "clock"),
    ),
    Seam(
        "synapse.util.caches.descriptors:DeferredCacheListDescriptor",
        "makes methods that exist only on objects, so the check must not ask a class for them",
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
    reactor: Any = hs.get_reactor()
    reactor.addSystemEventTrigger("before", "shutdown", *_in_background(hs, name), function)


def _in_background(hs: HomeServer, name: str) -> tuple[Any, ...]:
    """What runs a function as a background process, and its arguments before the function."""
    # Since 1.140 the homeserver does it. From 1.136 to 1.139 a function asks which one it is for.
    of_homeserver = getattr(hs, "run_as_background_process", None)
    if of_homeserver is not None:
        return of_homeserver, name
    run: Any = background_process_metrics.run_as_background_process
    asks = "server_name" in inspect.signature(run).parameters
    return (run, name, hs.hostname) if asks else (run, name)


def make_linearizer(hs: HomeServer, name: str) -> Linearizer:
    """A queue for each key: `async with linearizer.queue(key)`."""
    return Linearizer(name=name, clock=hs.get_clock())
