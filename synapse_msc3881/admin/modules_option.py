# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads a process's `modules`, and finds what admins most often get wrong there.

Synapse's own message for these is about YAML, or there is none at all: an option beside `module:`
silently has no effect.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import attr
from synapse.module_api.errors import ConfigError

from synapse_msc3881.admin.config_files import ConfigFile
from synapse_msc3881.admin.report import Finding, problem
from synapse_msc3881.config import OPTIONS
from synapse_msc3881.seams import process_config

#: What admins write instead of `module:`.
MODULE = "synapse_msc3881.PusherControl"

ENTRY = f"""\
modules:
  - module: {MODULE}
    config: {{}}"""

# The names under which Synapse finds the module.
_OURS = re.compile(r"synapse_msc3881(\.\w+)*\.")

# How similar a name must be to count as meant for ours, from 0 to 1.
_ALIKE = 0.75

_DOES_NOT_START = "Synapse does not start with this"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class ModulesOption:
    """What `modules` says about our module.

    Attributes:
        entries: the module's entries, each with its place in the list.
        findings: what is wrong with them, and with what was meant to be one.
        meant: whether someone has tried to add the module.
    """

    entries: Sequence[tuple[int, Mapping[str, Any]]]
    findings: Sequence[Finding]

    @property
    def meant(self) -> bool:
        return bool(self.entries or self.findings)


def read_modules(files: Sequence[ConfigFile]) -> ModulesOption:
    """Read `modules` as a process started with these files does.

    Args:
        files: in order; the last one with `modules` counts, as for all of Synapse's options.
    """
    having = [file for file in files if "modules" in file.options]
    findings = list(_stray_options(files))
    if not having:
        return ModulesOption((), findings)
    file = having[-1]
    modules = file.options["modules"]
    entries = list(_entries(modules))
    findings += _judge_shape(file.path, modules)
    for index, entry in entries:
        findings += _beside(file.path, index, entry)
        findings += _twice(file, index)
    if entries:
        findings += _displaced(having)
        findings += _not_installed(file)
    return ModulesOption(entries, findings)


def entries_of(file: ConfigFile) -> list[tuple[int, Mapping[str, Any]]]:
    """The module's entries in one file."""
    return list(_entries(file.options.get("modules")))


def _entries(modules: object) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, entry in enumerate(modules if isinstance(modules, list) else ()):
        if isinstance(entry, Mapping) and _OURS.match(str(entry.get("module"))):
            yield index, entry


# --- Not a list of entries ----------------------------------------------------------------------


def _judge_shape(path: str, modules: object) -> Iterator[Finding]:
    if isinstance(modules, Mapping):
        if _is_like_ours(modules.get("module")):
            yield _not_taken(path, "the dash before `module:` is missing", _expected_mapping(0))
    elif isinstance(modules, str):
        if _is_like_ours(modules):
            yield _not_taken(path, f"`modules` is the bare name {modules!r}", _expected_mapping(0))
    elif isinstance(modules, list):
        for index, entry in enumerate(modules):
            yield from _judge_entry(path, index, entry)


def _judge_entry(path: str, index: int, entry: object) -> Iterator[Finding]:
    if isinstance(entry, str) and _is_like_ours(entry):
        what = f"item {index} of `modules` is the bare name {entry!r}, without `module:`"
        yield _not_taken(path, what, _expected_mapping(index))
    elif isinstance(entry, Mapping):
        name = entry.get("module")
        if not isinstance(name, str):
            refusal = ConfigError("expected a string", ("modules", f"<item {index}>", "module"))
            yield _not_taken(
                path,
                f"item {index} of `modules` has no `module:` with the name of one",
                process_config.explain_config_error(refusal),
            )
        elif _is_like_ours(name) and not _OURS.match(str(name)) and (error := _import_error(name)):
            yield problem(
                path,
                f"`{name}` in `modules` cannot be loaded. {_DOES_NOT_START}, and says:\n{error}",
                f"Did you mean {MODULE}?",
            )


def _not_taken(path: str, what: str, error: str) -> Finding:
    return problem(path, f"{what}. {_DOES_NOT_START}, and says:\n{error}", f"Write:\n{ENTRY}")


def _expected_mapping(index: int) -> str:
    error = ConfigError("expected a mapping", ("modules", f"<item {index}>"))
    return process_config.explain_config_error(error)


def _is_like_ours(name: object) -> bool:
    """Whether a name is ours, or was meant to be."""
    if not isinstance(name, str):
        return False
    package, _, rest = MODULE.partition(".")
    return (
        _alike(name.partition(".")[0], package)
        or _alike(name.rpartition(".")[2], rest)
        or _alike(name, MODULE)
    )


def _alike(one: str, other: str) -> bool:
    matcher = difflib.SequenceMatcher(None, one.lower().replace("-", "_"), other.lower())
    return matcher.ratio() >= _ALIKE


def _import_error(name: Any) -> str | None:
    """What Synapse says when it imports this; None if the package is there."""
    if "." not in name:
        return "ValueError: not enough values to unpack (expected 2, got 1)"
    package = name.partition(".")[0]
    try:
        found = find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    return None if found else f"ModuleNotFoundError: No module named {package!r}"


# --- Options in the wrong place -----------------------------------------------------------------


def _beside(path: str, index: int, entry: Mapping[str, Any]) -> Iterator[Finding]:
    stray = [str(name) for name in entry if name not in ("module", "config")]
    if not stray:
        return
    names = ", ".join(f"`{name}`" for name in stray)
    remedy = f"Put it below `config:`, two spaces further in. The options are {', '.join(OPTIONS)}."
    if "config" not in entry and len(stray) == 1 and _holds_options(entry[stray[0]]):
        remedy = "Call it `config`."
    empty = " (there is a `config:` with nothing below it)" if _is_empty(entry) else ""
    yield problem(
        path,
        f"{names} in item {index} of `modules` stands beside `module:`, where Synapse passes over "
        f"it{empty}: it is without effect",
        remedy,
    )


def _twice(file: ConfigFile, index: int) -> Iterator[Finding]:
    """Options that stand more than once in an entry: YAML takes the last one."""
    # There is none where `modules` itself is merged from elsewhere in the file, by `<<`.
    repeated = file.repeated[index] if index < len(file.repeated) else {}
    for name, lines in repeated.items():
        where = " and ".join(map(str, lines))
        yield problem(
            file.path,
            f"`{name}` in item {index} of `modules` stands there more than once, in lines {where}. "
            "Only the last counts",
            "Put all that is below it in one place.",
        )


def _is_empty(entry: Mapping[str, Any]) -> bool:
    return "config" in entry and not entry["config"]


def _stray_options(files: Sequence[ConfigFile]) -> Iterator[Finding]:
    """Options of ours at the top level of a file, as when `config:` begins at the first column."""
    for file in files:
        yield from _stray_entries(file)
        stray = ["`keep_omitted`"] if "keep_omitted" in file.options else []
        if _holds_options(file.options.get("config")):
            stray.append("`config`")
        if stray:
            yield problem(
                file.path,
                f"{', '.join(stray)} stands at the first column, where it is an option of "
                "Synapse's, which knows no such: it is without effect",
                f"It belongs to the module:\n{ENTRY}",
            )


def _stray_entries(file: ConfigFile) -> Iterator[Finding]:
    """The module's entry under another name than `modules`, or further in."""
    modules = file.options.get("modules")
    for name, value in file.options.items():
        if name == "modules":
            continue
        below = value.items() if isinstance(value, Mapping) else ()
        for path, held in ((f"{name}", value), *((f"{name}.{key}", one) for key, one in below)):
            # `modules` may be an alias of it.
            if held is not modules and any(_entries(held)):
                yield problem(
                    file.path,
                    f"`{path}` holds an entry of the module, but Synapse reads `modules` at the "
                    "first column: the module is not loaded",
                    f"Write, at the first column:\n{ENTRY}",
                )


def _holds_options(value: object) -> bool:
    return isinstance(value, Mapping) and not set(OPTIONS).isdisjoint(map(str, value))


# --- Several files ------------------------------------------------------------------------------


def _displaced(having: Sequence[ConfigFile]) -> Iterator[Finding]:
    """Other modules that our file's `modules` replaces: Synapse does not merge the lists."""
    file = having[-1]
    kept = set(_names(file))
    for earlier in having[:-1]:
        lost = [name for name in _names(earlier) if name not in kept and not _OURS.match(name)]
        if lost:
            yield problem(
                file.path,
                f"its `modules` replaces `modules` in {earlier.path}, as Synapse does not join "
                f"them. Not loaded: {', '.join(lost)}",
                f"List all modules in one place: add the module's entry to {earlier.path} and take "
                f"`modules` out of {file.path}.",
            )


def _not_installed(file: ConfigFile) -> Iterator[Finding]:
    """Other modules without which Synapse does not start, as in an image that was built anew."""
    for name in _names(file):
        if not _is_like_ours(name) and (error := _import_error(name)):
            yield problem(
                file.path,
                f"`{name}` in `modules` cannot be loaded. {_DOES_NOT_START}, and says:\n{error}",
                "Install it beside Synapse, or take it out; unless Synapse has a PYTHONPATH that "
                "this command does not have.",
            )


def _names(file: ConfigFile) -> Iterator[str]:
    modules = file.options.get("modules")
    for entry in modules if isinstance(modules, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("module"), str):
            yield entry["module"]
