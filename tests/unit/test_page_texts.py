# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page's texts and its vendored libraries, as they lie in the package."""

import hashlib
import json
import re

import pytest

from tests.harness.source import STATIC

SOURCES = {path.name: path.read_text() for path in sorted((STATIC / "js").rglob("*.js"))}
CATALOGUES = {
    path.stem: json.loads(path.read_text()) for path in sorted((STATIC / "i18n").glob("*.json"))
}
PLURAL = re.compile(r"\.(zero|one|two|few|many|other)$")

# t("key"), and t(`beginning.${what}`), of which the rest is whatever there is; also the last part
# of a call that is broken over lines.
_WHOLE = re.compile(r"\bt\(\s*(?:[^`\"()]*\?\s*)?\"([\w.-]+)\"")
_EITHER = re.compile(r"\bt\(\"[\w.-]+\"\)\s*:\s*t\(\"([\w.-]+)\"\)")
_BEGINNING = re.compile(r"\bt\(\s*`([\w.-]*)\$\{[^}]*\}([\w.-]*)`")


def base(key: str) -> str:
    """The key without its plural form, where it has one."""
    stem = PLURAL.sub("", key)
    return stem if f"{stem}.one" in CATALOGUES["en"] else key


def used() -> tuple[set[str], list[re.Pattern[str]]]:
    code = "\n".join(SOURCES.values())
    whole = {*_WHOLE.findall(code), *_EITHER.findall(code)}
    dynamic = [
        re.compile(rf"{re.escape(head)}.+{re.escape(tail)}$")
        for head, tail in _BEGINNING.findall(code)
    ]
    return whole, dynamic


def test_the_catalogues_are_there() -> None:
    assert set(CATALOGUES) == {"en", "de", "fr"}


@pytest.mark.parametrize("language", ["de", "fr"])
def test_each_language_has_the_same_texts_with_the_same_values(language: str) -> None:
    english, other = CATALOGUES["en"], CATALOGUES[language]
    assert {base(key) for key in english} == {base(key) for key in other}
    for key in english:
        values = [set(re.findall(r"\{\w+\}", texts.get(key, ""))) for texts in (english, other)]
        assert values[0] == values[1], key
        assert other[key].strip(), key


def test_no_text_is_missing() -> None:
    whole, dynamic = used()
    keys = {base(key) for key in CATALOGUES["en"]}
    assert whole, "nothing was found in the sources"
    assert not whole - keys
    assert [one.pattern for one in dynamic if not any(one.match(key) for key in keys)] == []


def test_no_text_is_unused() -> None:
    whole, dynamic = used()
    keys = {base(key) for key in CATALOGUES["en"]}
    assert [k for k in sorted(keys - whole) if not any(one.match(k) for one in dynamic)] == []


# Between tags of a template: a letter that is in no ${…}.
_TEMPLATE = re.compile(r"html`((?:[^`\\$]|\$(?!\{)|\$\{(?:[^`{}]|\{[^`{}]*\})*\})*)`")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_text_stands_in_the_code(name: str) -> None:
    for template in _TEMPLATE.findall(SOURCES[name]):
        without_values = re.sub(r"\$\{(?:[^{}]|\{[^{}]*\})*\}", "", template)
        between_tags = re.sub(r"<[^<>]*>", "", without_values)
        assert not re.search(r"[^\W\d_]{2}", between_tags), between_tags


def test_no_markup_is_made_of_strings() -> None:
    for name, source in SOURCES.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write", source), name
        assert "dangerously" not in source, name
        assert not re.search(r"\beval\(|new Function|setAttribute\(\"(on|style)", source), name
        assert not re.search(r"\sstyle=", source), f"{name}: the policy refuses inline styles"


def test_the_vendored_files_are_those_of_the_list() -> None:
    vendor = STATIC / "vendor"
    listed = json.loads((vendor / "VENDORED.json").read_text())
    hashes = {
        name: details["sha256"]
        for package in listed.values()
        for name, details in package["files"].items()
    }
    there = {path.name: path for path in vendor.iterdir() if path.name != "VENDORED.json"}
    assert set(hashes) == set(there)
    for name, path in there.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == hashes[name], name
    for package in listed.values():
        assert package["licence"] in ("MIT", "Apache-2.0")
        assert any(name.endswith(".LICENSE.txt") for name in package["files"])
