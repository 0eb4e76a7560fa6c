# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rows of push actions, written and read as Synapse does."""

from collections.abc import Collection
from typing import Any

from synapse.storage.databases.main import event_push_actions

from synapse_msc3881.cascade.outcomes import StoredActions
from synapse_msc3881.seams import deserialize_actions, write_as_text


def row_text(actions: Collection[Any]) -> str:
    """What Synapse writes."""
    write_as_text(StoredActions)
    return event_push_actions._serialize_action(actions, has_highlight(actions))


def row_of(actions: Collection[Any]) -> list[Any]:
    """The actions after a journey through the database."""
    return deserialize_actions(row_text(actions), has_highlight(actions))


def has_highlight(actions: Collection[Any]) -> bool:
    """Whether Synapse counts a highlight."""
    return bool(event_push_actions._action_has_highlight(actions))
