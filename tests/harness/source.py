# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads the package's own source: what it imports, and what it touches of Synapse's.

As far as that can be found by reading: an object is taken for one of Synapse's by its annotation,
by where it comes from, or by its name. What is only to be had through `Any` under another name is
not found.
"""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attr
from synapse.module_api import ModuleApi

import synapse_msc3881
from synapse_msc3881 import seams
from synapse_msc3881.seams import SEAMS, TABLES, process_config

PACKAGE = Path(synapse_msc3881.__file__).parent
NAME = "synapse_msc3881"

#: The page as it is written.
STATIC = PACKAGE / "page" / "static"

#: What Synapse documents for modules.
DOCUMENTED = ("synapse.module_api", "synapse.module_api.errors")

# The homeserver: outside the seams it is only handed on.
_HOMESERVER = {"hs", "homeserver"}

# What else is an object of Synapse's, by its name.
_SYNAPSE = {
    *("store", "main_store", "db_pool", "database", "notifier", "handler", "clock", "auth"),
    *("engine", "pusher", "native", "pool", "pusherpool", "experimental"),
}

# What touches an attribute that is named by a string.
_BY_NAME = {"getattr", "setattr", "hasattr", "delattr"}

# What containers have, which Synapse's objects hold.
_OF_CONTAINERS = {"get", "items", "values", "keys", "pop", "add"}

_DECLARED = {
    name
    for seam in (*SEAMS, *process_config.SEAMS)
    for name in (*re.findall(r"\w+", seam.where.partition(":")[2]), *seam.attributes)
}
_WHERE = [seam.where for seam in (*SEAMS, *process_config.SEAMS)]


def modules() -> dict[str, Path]:
    """The package's modules by their full names."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imports(module: str, source: str, known: Iterable[str]) -> set[str]:
    """Which of the `known` modules a module imports, for types only too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found |= {full} if full in known else {node.module} & set(known)
    return found - {module}


# --- What is touched of Synapse -----------------------------------------------------------------


def complaints(module: str, source: str) -> list[str]:
    """What a module touches of Synapse that it must not, each with its line."""
    tree = ast.parse(source)
    is_seam = module.startswith(f"{NAME}.seams")
    found = [
        *_about_imports(tree, is_seam),
        *_Attributes(tree, is_seam).complaints(),
        *_about_sql(tree),
    ]
    return [f"{module}:{line}: {what}" for line, what in sorted(set(found))]


Found = tuple[int, str]


def _for_types_only(tree: ast.Module) -> set[ast.AST]:
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


def _imported(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """What is imported of Synapse when the code runs: line, module and name."""
    types_only = _for_types_only(tree)
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, node.module, alias.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value), ""


def _about_imports(tree: ast.Module, is_seam: bool) -> Iterator[Found]:
    for line, module, name in _imported(tree):
        if module.partition(".")[0] != "synapse" or module in DOCUMENTED:
            continue
        where = f"{module}:{name}" if name else module
        if not is_seam:
            yield line, f"{where} is imported outside seams/"
        elif not any(_declares(seam, module, name) for seam in _WHERE):
            yield line, f"{where} is imported and not declared"


def _declares(seam: str, module: str, name: str) -> bool:
    names = (f"{module}:{name}", f"{module}.{name}:") if name else (f"{module}:",)
    return any(seam == one or seam.startswith((one.rstrip(":") + ":", one + ".")) for one in names)


_BY_TYPE = {"Any": "", "HomeServer": "homeserver", "ModuleApi": "api"}


def _kind_of_name(name: str) -> str:
    name = name.lstrip("_")
    if name in _HOMESERVER:
        return "homeserver"
    return "api" if name == "api" else "synapse" if name in _SYNAPSE else ""


class _Attributes(ast.NodeVisitor):
    """Looks at each attribute that is read or set of an object of Synapse's."""

    def __init__(self, tree: ast.Module, is_seam: bool) -> None:
        self._tree = tree
        self._is_seam = is_seam
        # What is known of names and of `self.name`: whether they are Synapse's.
        self._known: dict[str, str] = {}
        self._own: set[str] = set()
        self._in_heir = False
        self._found: list[Found] = []
        self._known |= {
            alias.asname or alias.name: "ours"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(NAME)
            for alias in node.names
        }
        # What heirs of Synapse's classes have besides.
        self._added = {
            field.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.bases
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        self._synapse_types = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("synapse.")
            and node.module not in (*DOCUMENTED, "synapse.http.site")
            for alias in node.names
        }

    def complaints(self) -> list[Found]:
        self.visit(self._tree)
        return self._found

    # What is known

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer = self._known, self._own, self._in_heir
        self._known = dict(self._known)
        self._in_heir = any(self._type_kind(base) == "synapse" for base in node.bases)
        self._own = {
            *(child.name for child in ast.walk(node) if isinstance(child, ast.FunctionDef)),
            *(child.name for child in ast.walk(node) if isinstance(child, ast.AsyncFunctionDef)),
            *(
                child.attr
                for child in ast.walk(node)
                if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store)
            ),
        }
        for child in sorted(node.body, key=lambda one: getattr(one, "name", "") != "__init__"):
            self.visit(child)
        self._known, self._own, self._in_heir = outer

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        # `self.name` outlives the function, other names do not.
        outer = self._known
        self._known = dict(outer)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation is not None:
                self._know(argument.arg, self._type_kind(argument.annotation))
        self.generic_visit(node)
        kept = {name: kind for name, kind in self._known.items() if name.startswith("self.")}
        self._known = {**outer, **kept}

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self._know(ast.unparse(target), self._kind(node.value))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self._know(node.target.id, self._kind(node.value))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        kind = self._type_kind(node.annotation)
        if kind == "" and node.value is not None:
            kind = self._kind(node.value)
        self._know(ast.unparse(node.target), kind)

    def visit_For(self, node: ast.For) -> None:
        self._know_each(node)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._know_each(node)
        self.generic_visit(node)

    def _know_each(self, node: ast.For | ast.comprehension) -> None:
        kind = self._kind(node.iter)
        if isinstance(node.target, ast.Name) and kind in ("synapse", "container"):
            self._know(node.target.id, "synapse")

    def _know(self, name: str, kind: str) -> None:
        if kind:
            self._known[name] = kind

    def _type_kind(self, annotation: ast.expr) -> str:
        """What an annotation says of whose an object is; as `_kind`."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        if isinstance(annotation, ast.BinOp):  # X | None
            return self._type_kind(annotation.left)
        text = ast.unparse(annotation)
        if isinstance(annotation, ast.Subscript):
            inner = self._type_kind(annotation.slice)
            return "container" if inner == "synapse" and "Callable" not in text else "ours"
        if text in _BY_TYPE:
            return _BY_TYPE[text]
        found: Any = getattr(seams, text.removeprefix("seams."), None)
        is_synapse = inspect.isclass(found) and found.__module__.startswith("synapse.")
        return "synapse" if is_synapse or text in self._synapse_types else "ours"

    def _kind(self, node: ast.expr) -> str:
        """Whose an object is.

        Returns:
            "homeserver", "api", "synapse", "container" of objects of Synapse's, "ours", or "" where
            it is not known.
        """
        known = self._known.get(ast.unparse(node))
        if known is not None:
            return known
        if isinstance(node, ast.Await):
            return self._kind(node.value)
        if isinstance(node, ast.Call):
            return self._kind_of_call(node)
        return self._kind_of_path(node)

    def _kind_of_path(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return _kind_of_name(node.id)
        if not isinstance(node, ast.Attribute) or node.attr == "module":  # The database's driver.
            return ""
        if ast.unparse(node.value) == "self":
            return _kind_of_name(node.attr)
        # What an object of Synapse's has is one too, and so with ours.
        owner = self._kind(node.value)
        return "synapse" if owner == "homeserver" else owner if owner in ("synapse", "ours") else ""

    def _kind_of_call(self, node: ast.Call) -> str:
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in ("main_store", "engine_of"):
            return "synapse"
        owner = self._kind(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if owner == "homeserver":
            return "synapse"
        found: Any = getattr(seams, name, None)
        if inspect.isclass(found) and found.__module__.startswith(NAME):
            return "ours"
        if inspect.isfunction(found) and ast.unparse(node.func) in (name, f"seams.{name}"):
            returned = found.__annotations__.get("return")
            if isinstance(returned, str):
                return self._type_kind(ast.parse(returned, mode="eval").body)
        return ""

    # What is used

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        self._use(node, node.value, node.attr)

    def visit_Call(self, node: ast.Call) -> None:
        """`getattr` and the like, with a name that can be read."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _BY_NAME and len(node.args) > 1:
            owner, name = node.args[:2]
            if isinstance(name, ast.Constant):
                self._use(node, owner, str(name.value))

    def _use(self, node: ast.expr, owner: ast.expr, name: str) -> None:
        kind, text = self._kind(owner), ast.unparse(node)
        if name.startswith("__") or name in {*_OF_CONTAINERS, *self._added}:
            return
        if ast.unparse(owner) == "self" and self._in_heir:
            kind = "" if name in self._own else "synapse"
        if kind == "homeserver" and not self._is_seam:
            self._found.append((node.lineno, f"`{text}` reaches into the homeserver"))
        elif kind in ("homeserver", "synapse") and name not in _DECLARED:
            self._found.append((node.lineno, f"`{text}`: {name} is declared by no seam"))
        elif kind == "api" and not self._documents(name):
            self._found.append((node.lineno, f"`{text}` is not in the module API"))

    def _documents(self, name: str) -> bool:
        if name.startswith("_"):
            return self._is_seam and name in _DECLARED
        return hasattr(ModuleApi, name)


# --- SQL ----------------------------------------------------------------------------------------

_SQL = re.compile(r"\b(SELECT|FROM|WHERE|JOIN|INSERT INTO|UPDATE|DELETE|ORDER BY|SUBSTR)\b|\bAND\b")
_NAMED = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE|LOCK TABLE)\s+(?!SET\b)([\w.]+)(?:\s+AS\s+(\w+))?")
_WITH = re.compile(r"\bWITH\s+(\w+)\s+\(([\w, ]+)\)\s+AS\b")
_CATALOGUES = re.compile(r"information_schema\.|pg_|sqlite_master")
_OUR_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+) \((.*?)\n\)", re.DOTALL)


def our_tables() -> dict[str, set[str]]:
    """The module's tables, with their columns."""
    script = "\n".join(file.read_text() for file in (PACKAGE / "storage" / "schema").glob("*.sql"))
    return {
        name: set(re.findall(r"^\s*(\w+)", columns, re.MULTILINE))
        for name, columns in _OUR_TABLE.findall(script)
    }


def _about_sql(tree: ast.Module) -> Iterator[Found]:
    columns: Mapping[str, set[str]] = {
        **{table.name: set(table.columns) for table in TABLES},
        **our_tables(),
    }
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for line, text in _texts(tree):
        if text in docstrings or not _SQL.search(text) or _CATALOGUES.search(text):
            continue
        statement = _Statement(text, columns)
        for problem in statement.problems():
            yield line, problem


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    inner = {
        part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else " {} "
                for part in node.values
            ]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            yield node.lineno, node.value


def _text(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else " {} "


@attr.s(auto_attribs=True, frozen=True)
class _Statement:
    """A statement, or a piece of one.

    Attributes:
        text: SQL.
        columns: of each table that there is.
    """

    text: str
    columns: Mapping[str, set[str]]

    def problems(self) -> Iterator[str]:
        text = re.sub(r"'[^']*'", "''", self.text)
        named = _NAMED.findall(text)
        columns = {
            **self.columns,
            **{name: set(listed.split(", ")) for name, listed in _WITH.findall(text)},
        }
        aliases = {alias or table: table for table, alias in named}
        for table in {table for table, _ in named}:
            if table not in columns:
                yield f"the table {table} is not declared"
        known = [columns[table] for table in aliases.values() if table in columns]
        anywhere: set[str] = set().union(*(known or columns.values()))
        for owner, column in re.findall(r"\b(\w+)\.(\w+)", text):
            if owner in aliases and column not in columns.get(aliases[owner], {column}):
                yield f"the column {aliases[owner]}.{column} is not declared"
        if "{}" in text and not named:
            return  # Its tables stand elsewhere.
        skipped = {*aliases, *aliases.values()}
        for word in re.findall(r"(?<![\w.{])([a-z_][a-z_0-9]*)\b(?!\s*[.(])", text):
            if word not in anywhere and word not in skipped:
                yield f"the column {word} is not declared"
