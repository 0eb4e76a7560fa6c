# SPDX-License-Identifier: AGPL-3.0-or-later
"""Joins the page's ES modules into one file, so that a browser makes one request, not a dozen.

Pure, and not a JavaScript parser: it knows the few forms of `import` and `export` that the page's
modules use, and refuses all others. Each module keeps its own scope, so that names do not collide;
the entry module comes last, at the top level, where `await` is allowed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

import attr

_NAME = r"[A-Za-z_$][\w$]*"
_IMPORT = re.compile(
    rf"^import\b\s*(?:(?P<default>{_NAME})?\s*,?\s*"
    rf"(?:\{{(?P<names>[^}}]*)\}}|\*\s*as\s+(?P<namespace>{_NAME}))?\s*\bfrom\s*)?"
    r"(?P<quote>[\"'])(?P<path>[^\"'\n]+)(?P=quote)\s*;?",
    re.MULTILINE,
)
_EXPORT_DECLARATION = re.compile(
    rf"^export\s+(?P<kind>(?:async\s+)?function\b\s*\*?|class|const)\s+(?P<name>{_NAME})",
    re.MULTILINE,
)
# In a minified vendored module, these are in the middle of a long line.
_EXPORT_DEFAULT = re.compile(r"(?:^|(?<=[;}\n]))export\s+default\b\s*", re.MULTILINE)
_EXPORT_LIST = re.compile(r"(?:^|(?<=[;}\n]))export\s*\{(?P<names>[^}]*)\}\s*;?", re.MULTILINE)
_RENAMED = re.compile(rf"^({_NAME})(?:\s+as\s+({_NAME}))?$")
_DEFAULT = "moduleDefault"
# Whole lines of comments: for readers of the source, and a third of what would be sent.
_COMMENT = re.compile(r"^[ \t]*(?:/\*(?:(?!\*/).)*\*/|//[^\n]*)[ \t]*\n", re.MULTILINE | re.DOTALL)
_LICENCE = "// SPDX-License-Identifier: AGPL-3.0-or-later\n"
# Whatever none of the above has matched. In comments, `import("./x.js").Type` is a type.
_LEFT = re.compile(
    r"^\s*(?:import|export)\b(?!\s*[.:=,)])[^\n]*"
    r"|(?:\b(?:await|return)\s+|=>?\s*)import\s*\([^\n]*",
    re.MULTILINE,
)


class BundleError(ValueError):
    """A module is not written as the page's modules must be; the message names it."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class _Module:
    """A module without its imports and exports.

    Attributes:
        body: what is left of it.
        imports: the path of each module that it imports, and the names: what each is called
            there, and here; a string for the whole module.
        exports: what each is called outside, and inside.
    """

    body: str
    imports: list[tuple[str, dict[str, str] | str]]
    exports: dict[str, str]


def bundle(sources: Mapping[str, str], entry: str) -> str:
    """Join a module and everything that it imports.

    Args:
        sources: modules by path, for example ``js/app.js``.
        entry: the path of the one to run.

    Raises:
        BundleError: an import of something that does not exist, a cycle, or a form of import or
            export other than those above.
    """
    order = list(_in_order(sources, entry, ()))
    modules = dict(dict.fromkeys(order))  # Each once, after whatever it imports.
    numbers = {path: f"module{index}" for index, path in enumerate(modules)}
    parsed = {path: _parse(path, sources[path]) for path in modules}
    for path, module in parsed.items():
        _check_names(path, module, parsed)
    parts = (_emit(path, parsed[path], numbers, path == entry) for path in modules)
    return _LICENCE + "\n".join(parts)


def _in_order(sources: Mapping[str, str], path: str, above: tuple[str, ...]) -> Iterator[str]:
    if path in above:
        raise BundleError(f"{path}: imports itself by way of {' and '.join(above)}")
    if path not in sources:
        raise BundleError(f"{above[-1] if above else path}: there is no {path} to import")
    for found in _IMPORT.finditer(sources[path]):
        yield from _in_order(sources, _resolve(path, found["path"]), (*above, path))
    yield path


def _resolve(importer: str, path: str) -> str:
    if not path.startswith("."):
        raise BundleError(f"{importer}: imports {path!r}, which is no relative path")
    return posixpath.normpath(posixpath.join(posixpath.dirname(importer), path))


def _parse(path: str, source: str) -> _Module:
    imports: list[tuple[str, dict[str, str] | str]] = []
    exports: dict[str, str] = {}

    def take_import(found: re.Match[str]) -> str:
        imported = _resolve(path, found["path"])
        names = _names(path, found["names"] or "")
        if found["default"]:
            names["default"] = found["default"]
        imports.append((imported, names))
        if found["namespace"]:
            imports.append((imported, found["namespace"]))
        return ""

    def take_list(found: re.Match[str]) -> str:
        exports.update({theirs: ours for ours, theirs in _names(path, found["names"]).items()})
        return ""

    def take_declaration(found: re.Match[str]) -> str:
        exports[found["name"]] = found["name"]
        return f"{found['kind']} {found['name']}"

    body = _COMMENT.sub("", source)
    body = _IMPORT.sub(take_import, body)
    body = _EXPORT_DECLARATION.sub(take_declaration, body)
    body = _EXPORT_LIST.sub(take_list, body)
    body, defaults = _EXPORT_DEFAULT.subn(f"const {_DEFAULT} = ", body)
    if defaults:
        exports["default"] = _DEFAULT
    if left := _LEFT.search(body):
        raise BundleError(f"{path}: cannot be joined: {left[0].strip()[:100]!r}")
    return _Module(body.strip("\n"), imports, exports)


def _names(path: str, listed: str) -> dict[str, str]:
    """``a, b as c`` as {a: a, b: c}."""
    names = {}
    for each in filter(None, (part.strip() for part in listed.split(","))):
        found = _RENAMED.match(" ".join(each.split()))
        if found is None:
            raise BundleError(f"{path}: {each!r} is no name to import or export")
        names[found[1]] = found[2] or found[1]
    return names


def _check_names(path: str, module: _Module, parsed: Mapping[str, _Module]) -> None:
    for imported, names in module.imports:
        missing = [name for name in names if name not in parsed[imported].exports]
        if not isinstance(names, str) and missing:
            raise BundleError(f"{path}: {imported} does not export {', '.join(missing)}")


def _emit(path: str, module: _Module, numbers: Mapping[str, str], is_entry: bool) -> str:
    lines = [f"// {path}"]
    if not is_entry:
        lines.append(f"const {numbers[path]} = (() => {{")
    for imported, names in module.imports:
        if isinstance(names, str):
            lines.append(f"const {names} = {numbers[imported]};")
        elif names:
            listed = ", ".join(_pair(theirs, ours) for theirs, ours in names.items())
            lines.append(f"const {{ {listed} }} = {numbers[imported]};")
    lines.append(module.body)
    if not is_entry:
        listed = ", ".join(_pair(theirs, ours) for theirs, ours in module.exports.items())
        lines.append(f"return {{ {listed} }};\n}})();")
    return "\n".join(lines) + "\n"


def _pair(name: str, value: str) -> str:
    return name if name == value else f"{name}: {value}"
