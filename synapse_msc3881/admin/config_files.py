# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads a config file to say what is wrong with it, which Synapse's own reader does not."""

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
        path: as it was named.
        options: its top-level options.
        modules_lines: the lines on which a top-level `modules` stands. YAML that names an option
            twice is read as if the first were not there.
    """

    path: str
    options: Mapping[str, Any] = attr.ib(repr=False)
    modules_lines: Sequence[int] = ()


class UnreadableError(Exception):
    """A file cannot be read as YAML; the message is for a human."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def read_config_file(name: str) -> ConfigFile:
    """Read one file.

    Raises:
        UnreadableError: it is not there, or Synapse could not read it.
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
        # Synapse passes over it: often all of it is a comment.
        return ConfigFile(name, {})
    if not isinstance(options, Mapping) or not isinstance(root, yaml.MappingNode):
        raise UnreadableError("it does not hold options, but something else; Synapse ignores it")
    lines = [key.start_mark.line + 1 for key, _ in root.value if key.value == "modules"]
    return ConfigFile(name, options, lines)


def _describe(error: yaml.YAMLError) -> str:
    """What is wrong, without the text of the file, which may be a secret."""
    mark = getattr(error, "problem_mark", None)
    what = re.sub(r"(['\"]).{2,}\1", "'…'", str(getattr(error, "problem", None) or "unreadable"))
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"it is not YAML{where}: {what}"


@contextlib.contextmanager
def printing_nothing() -> Iterator[None]:
    """Keep what Synapse prints off the output: the names of files that it passes over."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
