# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps the config's secrets out of what is shown, whichever message quotes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attr

_SECRET_OPTION = re.compile(
    r"(secret|passw|token|pepper|dsn|credential|_key$|^key$)(?!.*_(path|file|lifetime)$)",
    re.IGNORECASE,
)
# Anything shorter would remove ordinary words from the messages.
_SHORTEST = 4
_HIDDEN = "(secret)"


@attr.s(auto_attribs=True, slots=True)
class Secrets:
    """The secrets seen so far."""

    _values: set[str] = attr.ib(factory=set, repr=False)

    def see(self, config: Mapping[Any, Any]) -> None:
        """Remember the values of options that are named like a secret, at any depth."""
        self._values.update(
            value for value in _secrets_in(config, secret=False) if len(value) >= _SHORTEST
        )

    def hide(self, text: str) -> str:
        """The text without them; longer ones go first, as one may contain another."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, _HIDDEN)
        return text


def _secrets_in(node: Any, *, secret: bool) -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _secrets_in(value, secret=secret or bool(_SECRET_OPTION.search(str(name))))
    elif isinstance(node, Iterable) and not isinstance(node, (str, bytes)):
        for item in node:
            yield from _secrets_in(item, secret=secret)
    elif secret and not isinstance(node, bool) and node is not None:
        yield str(node)
