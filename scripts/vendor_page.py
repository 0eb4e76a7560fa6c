#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Renews the libraries that the page brings along: `scripts/vendor_page.py preact 11.2.0`.

Fetches a package from npm (`npm pack`), copies the files that the page needs, changes what a
browser without an import map and without source maps cannot use, and writes versions, licences and
hashes to `vendor/VENDORED.json`, which a test compares with the files. Without arguments it makes
all of them again, in the versions that are there.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parent.parent / "synapse_msc3881" / "page" / "static" / "vendor"
MANIFEST = VENDOR / "VENDORED.json"

# package -> the files to take: where they are in it, and the names that they get here.
FILES = {
    "preact": {
        "dist/preact.mjs": "preact.js",
        "hooks/dist/hooks.mjs": "hooks.js",
        "LICENSE": "preact.LICENSE.txt",
    },
    "htm": {"dist/htm.mjs": "htm.js", "LICENSE": "htm.LICENSE.txt"},
}

# Every change to a file, so that a reader sees that there is no other.
EDITS = (
    (r'from"preact"', 'from"./preact.js"'),
    (r"\n//# sourceMappingURL=\S+\s*$", "\n"),
)


def main(arguments: list[str]) -> int:
    """Vendor one package in a version, or all of them again."""
    manifest: dict[str, Any] = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    if len(arguments) == 2:
        wanted = {arguments[0]: arguments[1]}
    else:
        wanted = {name: package["version"] for name, package in manifest.items()}
    for name, version in wanted.items():
        manifest[name] = vendor(name, version)
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")
    return 0


def vendor(name: str, version: str) -> dict[str, Any]:
    """Copy the files of one package, and say what they are."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"],
            cwd=directory,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        archive = next(Path(directory).glob("*.tgz"))
        packed = hashlib.sha256(archive.read_bytes()).hexdigest()
        with tarfile.open(archive) as tar:
            contents = {path: _read(tar, f"package/{path}") for path in FILES[name]}
            licence = json.loads(_read(tar, "package/package.json"))["license"]
    files = {}
    for path, target in FILES[name].items():
        text = contents[path]
        for pattern, replacement in EDITS:
            text = re.sub(pattern, replacement, text)
        (VENDOR / target).write_text(text)
        files[target] = {
            "from": path,
            "edited": text != contents[path],
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
    return {
        "version": version,
        "licence": licence,
        "package": f"https://registry.npmjs.org/{name}/-/{name}-{version}.tgz",
        "package_sha256": packed,
        "files": files,
    }


def _read(tar: tarfile.TarFile, path: str) -> str:
    member = tar.extractfile(path)
    if member is None:
        raise FileNotFoundError(path)
    return member.read().decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
