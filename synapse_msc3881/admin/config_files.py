# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads a config file and says what is wrong with it, which Synapse's own reader does not."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attr
import yaml


@attr.s(auto_attribs=True, frozen=True, slots=True)
class ConfigFile:
    """One YAML file, read.

    Attributes:
        path: as it was given.
        options: its top-level options.
        modules_lines: the lines with a top-level `modules`. If a YAML file has an option twice,
            the first one is ignored.
        repeated: for each item of the `modules` that counts, the options that it has more than
            once, each with its lines: `{"config.page": [8, 10]}`. Empty where YAML merges `modules`
            into the file's options from elsewhere.
    """

    path: str
    options: Mapping[str, Any] = attr.ib(repr=False)
    modules_lines: Sequence[int] = ()
    repeated: Sequence[Mapping[str, Sequence[int]]] = ()


# How deep the options of a module lie, at most.
_DEPTH = 5


class UnreadableError(Exception):
    """A file cannot be read as YAML; the message is for people."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def read_config_file(name: str) -> ConfigFile:
    """Read one file.

    Raises:
        UnreadableError: it does not exist, or Synapse could not read it.
    """
    try:
        text = Path(name).read_text()
    except FileNotFoundError:
        raise UnreadableError(f"there is no such file (seen from {Path.cwd()})") from None
    except PermissionError:
        raise UnreadableError(
            "it cannot be read by this user", "Run this as the user that Synapse runs as."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UnreadableError(f"it cannot be read: {reason}") from None
    try:
        options = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UnreadableError(_describe(error), "Synapse does not start with this.") from None
    if options is None:
        # Synapse skips such a file: often all of it is commented out.
        return ConfigFile(name, {})
    if not isinstance(options, Mapping) or not isinstance(root, yaml.MappingNode):
        raise UnreadableError("it does not hold options, but something else; Synapse ignores it")
    modules = [(key, value) for key, value in root.value if key.value == "modules"]
    lines = [key.start_mark.line + 1 for key, _ in modules]
    items = modules[-1][1].value if modules else ()
    repeated = [dict(_repeated(item)) for item in items if isinstance(item, yaml.Node)]
    return ConfigFile(name, options, lines, repeated)


def _repeated(node: yaml.Node, path: str = "") -> Iterator[tuple[str, Sequence[int]]]:
    """The options that stand more than once in a mapping or below it."""
    # An anchor may hold itself.
    if not isinstance(node, yaml.MappingNode) or path.count(".") > _DEPTH:
        return
    lines: dict[str, list[int]] = {}
    for key, value in node.value:
        name = f"{path}{key.value}"
        lines.setdefault(name, []).append(key.start_mark.line + 1)
        yield from _repeated(value, f"{name}.")
    yield from ((name, found) for name, found in lines.items() if len(found) > 1)


def _describe(error: yaml.YAMLError) -> str:
    """What is wrong, without quoting the file, which may contain secrets."""
    mark = getattr(error, "problem_mark", None)
    what = re.sub(r"(['\"]).{2,}\1", "'…'", str(getattr(error, "problem", None) or "unreadable"))
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"it is not YAML{where}: {what}"


@contextlib.contextmanager
def printing_nothing() -> Iterator[None]:
    """Keep what Synapse prints out of the output: the names of files that it skips."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
