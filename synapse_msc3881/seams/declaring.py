# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a seam is, and whether Synapse has it."""

from __future__ import annotations

import dis
import importlib
import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attr
from synapse.util.caches.descriptors import DeferredCacheListDescriptor

if TYPE_CHECKING:
    from synapse.server import HomeServer

#: Where the methods of Synapse's main data store are.
STORE = "synapse.storage.databases.main:DataStore."


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Seam:
    """Something of Synapse's that the module relies on.

    Attributes:
        where: ``module:Class.attribute``; or ``hs:`` and the way to it from a `HomeServer`.
        relies_on: what the module does with it and needs from it.
        since: the oldest Synapse version for which this is known to hold.
        parameters: names that the callable must take, if the module calls or replaces it.
        attributes: names that the objects of a class have.
        optional: whether the module can do without it if Synapse does not have it.
        calls: names that its code must use, if the module relies on how it works inside.
    """

    where: str
    relies_on: str
    since: str = "1.120"
    parameters: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    optional: bool = False
    calls: tuple[str, ...] = ()


class Declared(Protocol):
    """A seam or one of Synapse's tables: what messages say about it."""

    @property
    def where(self) -> str:
        """Where it is."""

    @property
    def relies_on(self) -> str:
        """What the module does with it and needs from it."""

    @property
    def since(self) -> str:
        """The oldest Synapse version for which this is known to hold."""


class SeamError(Exception):
    """Synapse does not have the shape that the module relies on."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class SeamStatus:
    """What was found for one declared thing; `problem` is None if all is well."""

    seam: Declared
    problem: str | None

    def __str__(self) -> str:
        return f"{self.seam.where}: {self.problem}"


def inspect_each(seams: Iterable[Seam], hs: HomeServer | None = None) -> list[SeamStatus]:
    """Compare Synapse with what is declared. Changes nothing.

    Args:
        seams: what is declared.
        hs: the homeserver, for the seams that exist only in a running one; without it, these
            are left out.
    """
    return [
        SeamStatus(seam, _problem(seam, hs))
        for seam in seams
        if hs is not None or not seam.where.startswith("hs:")
    ]


def _problem(seam: Seam, hs: HomeServer | None) -> str | None:
    root, _, path = seam.where.partition(":")
    try:
        found: Any = hs if root == "hs" else importlib.import_module(root)
        for name in path.split("."):
            found = _attribute(found, name.removesuffix("()"))
            if name.endswith("()"):
                found = found()
    except (ImportError, AttributeError) as error:
        return None if seam.optional else f"missing ({error})"
    return (
        _lacks_parameters(found, seam.parameters)
        or _lacks_attributes(found, seam.attributes)
        or _lacks_calls(found, seam.calls)
    )


def _lacks_parameters(found: Any, parameters: Sequence[str]) -> str | None:
    if not parameters:
        return None
    takes = inspect.signature(getattr(found, "native", found)).parameters
    missing = [name for name in parameters if name not in takes]
    return f"does not take {', '.join(missing)}; it takes {', '.join(takes)}" if missing else None


def _lacks_attributes(found: Any, attributes: Sequence[str]) -> str | None:
    missing = [name for name in attributes if not _has_attribute(found, name)]
    return f"its objects have no {', '.join(missing)}" if missing else None


def _has_attribute(of: type, name: str) -> bool:
    """Whether the objects of a class have an attribute: declared, or set by a method."""
    if hasattr(of, name):
        return True
    return any(
        name in getattr(base, "__annotations__", {})
        or any(_sets(method, name) for method in vars(base).values())
        for base in of.__mro__
    )


def _sets(method: object, name: str) -> bool:
    code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
    return code is not None and any(
        instruction.opname == "STORE_ATTR" and instruction.argval == name
        for instruction in (dis.get_instructions(code) if name in code.co_names else ())
    )


def _lacks_calls(found: Any, calls: Sequence[str]) -> str | None:
    if not calls:
        return None
    code = getattr(inspect.unwrap(getattr(found, "native", found)), "__code__", None)
    missing = [name for name in calls if code is None or name not in code.co_names]
    return f"does not use {', '.join(missing)} any more" if missing else None


def _attribute(found: Any, name: str) -> Any:
    if inspect.isclass(found) and not hasattr(found, name) and _has_attribute(found, name):
        return None  # Only its objects have it.
    # On a class, Synapse's descriptors for cached methods work only if not asked for a value.
    return inspect.getattr_static(found, name) if _is_cached(found, name) else getattr(found, name)


def _is_cached(found: Any, name: str) -> bool:
    return inspect.isclass(found) and isinstance(
        inspect.getattr_static(found, name, None), DeferredCacheListDescriptor
    )
