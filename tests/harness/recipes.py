# SPDX-License-Identifier: AGPL-3.0-or-later
"""The recipes of docs/recipes.md: rules, and what they ring for."""

import json
import re
from collections.abc import Mapping, Sequence

import attr

from demo.client import JsonDict
from tests.harness.deployment import CHECKOUT

RECIPES = CHECKOUT / "docs" / "recipes.md"

_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^\| text \|(.*)\n\|[-|]+\|\n\|(.*)\|$", re.MULTILINE)
_RULES = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@attr.s(auto_attribs=True, frozen=True)
class Recipe:
    """Rules, and for each table of a recipe what rings."""

    rules: Sequence[JsonDict]
    rings: Sequence[set[str]]

    def written_for(self, room: str, user_id: str) -> list[JsonDict]:
        """The rules for a room and a user."""
        text = json.dumps(self.rules).replace("<room>", room).replace("<user>", user_id)
        rules: list[JsonDict] = json.loads(text)
        return rules


def _rings(table: re.Match[str]) -> set[str]:
    names = ["text", *(name.strip() for name in table[1].strip("| ").split("|"))]
    cells = [cell.strip() for cell in table[2].strip("| ").split("|")]
    assert set(cells) <= {"rings", "no"}
    return {name for name, cell in zip(names, cells, strict=True) if cell == "rings"}


def read_recipes() -> Mapping[str, Recipe]:
    """The recipes by their headings."""
    found = {}
    for title, text in _SECTION.findall(RECIPES.read_text()):
        rules = _RULES.findall(text)
        if rules:
            [listed] = rules
            rings = [_rings(table) for table in _TABLE.finditer(text)]
            found[title] = Recipe(json.loads(listed), rings)
    return found


READ = read_recipes()
