# SPDX-License-Identifier: AGPL-3.0-or-later
"""Joining the page's modules: each keeps its scope, and what cannot be joined is named."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from synapse_msc3881.page.bundle import BundleError, bundle
from synapse_msc3881.page.files import load_page
from tests.harness.node import node

SOURCES = {
    "js/main.js": """\
import def, { greet as hello } from "./a.js";
import * as all from '../vendor/small.js'
import {
    hidden,
    count,
} from "./screens/b.js";
import "./effect.js";
const name = "main";
console.log(JSON.stringify([hello(name), def(), all.x, all.default(2), hidden, count(), await 1]));
""",
    "js/a.js": """\
import { name } from "./screens/b.js";
/** @param {import("./screens/b.js").Thing} thing */
export async function unused(thing) {}
export function greet(who) { return `${name} greets ${who}`; }
/**
 * import nothing from here; `export let` neither.
 */
export default function () {
    return [
        /** @type {any} */ ("default"),
        /** @type {any} */ (2),
        // end
    ][0];
}
/** More. */
""",
    "js/screens/b.js": """\
export const name = "b";
const secret = "renamed";
let counted = 0;
export function count() { counted += 1; return counted; }
export class Thing {}
export { secret as hidden };
""",
    "js/effect.js": "const name = 5; globalThis.effect = name;\n",
    "vendor/small.js": 'import{name as n}from"../js/screens/b.js";var l=n+"!";'
    "export default function(r){return r+l}export{l as x,n as y};\n",
}


def run(script: str, directory: Path) -> str:
    program = node()
    if program is None:
        pytest.skip("there is no Node")
    file = directory / "bundle.mjs"
    file.write_text(script)
    done = subprocess.run(
        [program, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_joined_does_what_the_modules_do(tmp_path: Path) -> None:
    for path, source in SOURCES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    program = node()
    if program is None:
        pytest.skip("there is no Node")
    apart = subprocess.run(
        [program, str(tmp_path / "js" / "main.js")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    joined = run(bundle(SOURCES, "js/main.js"), tmp_path)
    assert joined == apart.stdout
    assert json.loads(joined) == ["b greets main", "default", "b!", "2b!", "renamed", 1, 1]


def test_each_module_is_there_once_and_nothing_is_left_to_be_fetched() -> None:
    joined = bundle(SOURCES, "js/main.js")
    assert joined.count('const name = "b"') == 1
    assert "import nothing" not in joined
    assert not re.search(r"^\s*(import|export)\b", joined, re.MULTILINE)


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        ({"a.js": 'import { x } from "./b.js";'}, "there is no b.js"),
        ({"a.js": 'import { x } from "b";'}, "'b', which is no relative path"),
        ({"a.js": 'import "./b.js";', "b.js": 'import "./a.js";'}, "imports itself by way of"),
        ({"a.js": 'import { x } from "./b.js";', "b.js": ""}, "does not export x"),
        ({"a.js": 'import y from "./b.js";', "b.js": ""}, "does not export default"),
        ({"a.js": 'const b = await import("./b.js");', "b.js": ""}, "cannot be joined: 'await"),
        ({"a.js": "export let x = 1;"}, "cannot be joined: 'export let"),
        ({"a.js": 'export * from "./b.js";', "b.js": ""}, "cannot be joined"),
        ({"a.js": "export { 'x y' };"}, "is no name"),
    ],
)
def test_what_cannot_be_joined_is_named(sources: Mapping[str, str], problem: str) -> None:
    with pytest.raises(BundleError, match=re.escape(problem)):
        bundle(sources, "a.js")


def test_the_pages_own_files_are_joined_small_and_named_by_what_is_in_them() -> None:
    page = load_page()
    assert all(re.match(r"[0-9a-f]{12}/", path) for path in page.assets)
    assert len({path.partition("/")[0] for path in page.assets}) == 1
    assert load_page() == page
    first = [
        file for path, file in page.assets.items() if path.endswith((".js", ".css", "/en.json"))
    ]
    size = sum(len(file.gzipped or file.body) for file in [page.index, *first])
    assert size <= 60_000, f"the first load takes {size} bytes compressed"


def test_the_pages_own_script_can_be_parsed(tmp_path: Path) -> None:
    program = node()
    if program is None:
        pytest.skip("there is no Node")
    (script,) = (file for path, file in load_page().assets.items() if path.endswith("main.js"))
    file = tmp_path / "main.mjs"
    file.write_bytes(script.body)
    check = [program, "--check", str(file)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_put_into_the_document_cannot_leave_its_place() -> None:
    page = load_page('https://example.org/"><script>', policy="default-src 'none'")
    document = page.index.body.decode()
    assert 'content="https://example.org/&quot;&gt;&lt;script&gt;"' in document
    assert "content=\"default-src 'none'\"" in document
    assert document.index("Content-Security-Policy") < document.index("href=")
