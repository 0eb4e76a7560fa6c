# SPDX-License-Identifier: AGPL-3.0-or-later
"""Prints a table that fits the terminal: the last column wraps, the others are cut if need be."""

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TextIO

import attr

_GAP = "  "
_MAX_WIDTH = 110
# If the last column would be narrower, it goes below the others.
_MIN_LAST = 22
_INDENT = 6
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@attr.s(auto_attribs=True, frozen=True)
class Cell:
    """One cell: its text, and the style of the text."""

    text: str
    style: str = ""


class ScreenGoneError(Exception):
    """The reader of the output has gone."""


class Screen:
    """Where a command writes: with styles if they are visible, within the available width."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._coloured = _shows_colours(self._stream)
        self._plain_ascii = not _can_write(self._stream, "─…")
        self.width = min(shutil.get_terminal_size((100, 24)).columns, _MAX_WIDTH)

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line, which may be longer than the terminal is wide."""
        try:
            print(self.styled(text, style), file=self._stream, flush=True)
        except BrokenPipeError:
            # Otherwise the buffer would be written again when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise ScreenGoneError from None

    def paragraph(self, text: str, style: str = "") -> None:
        """Write a text on as many lines as it needs."""
        for part in textwrap.wrap(text, max(self.width, 20), break_long_words=False):
            self.line(part, style)

    def rule(self) -> None:
        """Write a line across."""
        self.line(("-" if self._plain_ascii else "─") * self.width, "dim")

    def styled(self, text: str, style: str) -> str:
        """The text with its style, if that is visible."""
        if self._plain_ascii:
            text = text.replace("…", "~").encode("ascii", "replace").decode()
        if not (style and self._coloured and text):
            return text
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m"

    def row(self, cells: Sequence[Cell], widths: Sequence[int]) -> None:
        """Write one row.

        Args:
            cells: the last one wraps.
            widths: of all cells but the last.
        """
        head = _GAP.join(
            self.styled(pad(cut(cell.text, width), width), cell.style)
            for cell, width in zip(cells, widths, strict=False)
        )
        last = cells[-1]
        used = sum(widths) + len(_GAP) * len(widths)
        room = self.width - used
        below = room < _MIN_LAST
        if below:
            used, room = _INDENT, max(self.width - _INDENT, 10)
        lines = textwrap.wrap(last.text, room) or [""]
        if below:
            self.line(head.rstrip())
        else:
            self.line((head + _GAP + self.styled(lines.pop(0), last.style)).rstrip())
        for line in lines:
            self.line(" " * used + self.styled(line, last.style))


def fit(widths: Mapping[str, int], width: int) -> list[int]:
    """Narrow the widest columns until all of them fit."""
    fitted = dict(widths)
    while sum(fitted.values()) + len(_GAP) * len(fitted) > width and max(fitted.values()) > 3:
        widest = max(fitted, key=lambda name: fitted[name])
        fitted[widest] -= 1
    return list(fitted.values())


def display_width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def pad(text: str, width: int) -> str:
    """The text with blanks up to a width."""
    return text + " " * (width - display_width(text))


def cut(text: str, width: int) -> str:
    """The text, or as much of its start as fits, with a sign that there is more."""
    if display_width(text) <= width:
        return text
    while text and display_width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _shows_colours(stream: TextIO) -> bool:
    # https://no-color.org: set, and not empty.
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
