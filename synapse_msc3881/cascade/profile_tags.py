# SPDX-License-Identifier: AGPL-3.0-or-later
"""Profile tags: what a valid list of them is, and the walk that decides a push (MSC3837).

Pure code: nothing here knows Synapse.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attr

#: The name of the global scope in a list of profile tags.
GLOBAL = "global"

#: What a pusher without profile tags does: what it always did.
DEFAULT_TAGS: tuple[str, ...] = (GLOBAL,)

MAX_TAG_BYTES = 255

#: A longer list is refused unread, so that looking for duplicates stays cheap.
MAX_LISTED_TAGS = 100

#: The actions of a push rule: strings such as "notify", and tweaks.
Action = str | Mapping[str, Any]
Actions = Sequence[Action]


class InvalidProfileTagsError(ValueError):
    """Tags that specification 2 refuses; the message says which limit is exceeded."""


def check_tag(tag: object) -> str:
    """Check one profile tag (specification 2 and 3).

    Args:
        tag: what the client sent.

    Returns:
        The tag: a string of 1 to 255 bytes of UTF-8 without control characters.

    Raises:
        InvalidProfileTagsError: it is something else.
    """
    if not isinstance(tag, str):
        raise InvalidProfileTagsError("a profile tag must be a string")
    try:
        size = len(tag.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidProfileTagsError("a profile tag must be valid Unicode") from None
    if size == 0:
        raise InvalidProfileTagsError("a profile tag must not be empty")
    if size > MAX_TAG_BYTES:
        raise InvalidProfileTagsError(
            f"a profile tag must have at most {MAX_TAG_BYTES} bytes of UTF-8, this one has {size}"
        )
    if any(unicodedata.category(character) == "Cc" for character in tag):
        raise InvalidProfileTagsError("a profile tag must not hold a control character")
    return tag


def parse_tags(value: object, limit: int) -> tuple[str, ...]:
    """Check a list of profile tags and drop its duplicates (MSC3837, specification 2).

    Args:
        value: what the client sent.
        limit: how many different tags a pusher may have.

    Returns:
        The tags in the client's order, each once; `DEFAULT_TAGS` for an empty list.

    Raises:
        InvalidProfileTagsError: it is not such a list; the message says which limit it breaks.
    """
    if not isinstance(value, list):
        raise InvalidProfileTagsError("must be a list of strings")
    if len(value) > MAX_LISTED_TAGS:
        raise InvalidProfileTagsError(f"must list at most {limit} profile tags, got {len(value)}")
    tags = tuple(dict.fromkeys(check_tag(tag) for tag in value))
    if len(tags) > limit:
        raise InvalidProfileTagsError(f"must list at most {limit} profile tags, got {len(tags)}")
    return tags or DEFAULT_TAGS


def listed_tags(value: object) -> tuple[str, ...] | None:
    """A list of profile tags as it would be stored, ignoring the limits; None if it is not one."""
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        return None
    return tuple(dict.fromkeys(value)) or DEFAULT_TAGS


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Match:
    """The rule that matched an event in one scope: its actions, and its name if that is known."""

    actions: Actions
    rule: str | None = None
    #: For `outcomes`, which finds out once what a row says of it.
    in_row: Any = attr.ib(default=None, init=False, eq=False, repr=False)

    @property
    def notifies(self) -> bool:
        """Whether the rule says to push. A match without `notify` is silent."""
        return "notify" in self.actions


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Decision:
    """The scope that decided about a push, and the rule that matched in it."""

    scope: str
    match: Match

    @property
    def actions(self) -> Actions:
        """The actions of the deciding rule."""
        return self.match.actions

    @property
    def pushes(self) -> bool:
        """Whether the deciding rule says to push."""
        return self.match.notifies


def walk(tags: Sequence[str], match_in: Callable[[str], Match | None]) -> Decision | None:
    """Walk a pusher's profile tags: the first scope with a match decides (specification 5).

    Args:
        tags: the pusher's profile tags, in order.
        match_in: the match of a scope; None if no rule in it matched the event.

    Returns:
        The decision, or None if no scope that the pusher lists matched.
    """
    for tag in tags:
        match = match_in(tag)
        if match is not None:
            return Decision(tag, match)
    return None
