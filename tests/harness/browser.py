# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real browser: a Chromium from the PATH, or the one that `make test-page` got from npm.

It talks to loopback only, and what it complains of is kept.
"""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attr
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Request, sync_playwright

from tests.harness.node import node

#: What the tests get from npm.
JS = Path(__file__).parent.parent / "page" / "js"
_CHROMIUM_FROM_NPM = JS / "chromium"

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    # Whatever the browser itself may want of the world, it does not find it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


@attr.s(auto_attribs=True, frozen=True)
class Chromium:
    """A browser that can be started: the program, and what its environment has to have."""

    program: str
    environment: Mapping[str, str] = attr.ib(factory=dict)


def find_chromium() -> Chromium | None:
    """A Chromium of this machine, else the one from npm, else None."""
    for name in _NAMES:
        if program := shutil.which(name):
            return Chromium(program)
    return _from_npm()


def _from_npm() -> Chromium | None:
    """The one of @sparticuz/chromium, which unpacks itself into what it takes for temporary."""
    program = node()
    installed = _CHROMIUM_FROM_NPM / "node_modules"
    if program is None or not installed.is_dir():
        return None
    unpacked = installed / ".unpacked"
    unpacked.mkdir(exist_ok=True)
    unpack = (
        'import chromium from "@sparticuz/chromium"; '
        "console.log(await chromium.executablePath()); "
        'console.log(process.env.LD_LIBRARY_PATH ?? "");'
    )
    # As on the system that it is made for: else it leaves its libraries packed.
    environment = {
        **os.environ,
        "AWS_LAMBDA_JS_RUNTIME": "nodejs24.x",
        "TMPDIR": str(unpacked),
    }
    # Others of this run look for it at the same time, and must not find the half of it.
    with (installed / ".unpacking").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [program, "--input-type=module", "--eval", unpack],
            cwd=_CHROMIUM_FROM_NPM,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    found, libraries = done.stdout.splitlines()[-2:]
    return Chromium(found, {"LD_LIBRARY_PATH": libraries} if libraries else {})


@contextmanager
def running(chromium: Chromium) -> Iterator[Browser]:
    """The browser, with a fresh profile, until the block ends."""
    # Its sandbox does not work for root, and for root alone it is given up.
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.program,
            args=[*_ARGUMENTS, *sandbox],
            env={**os.environ, **chromium.environment},
        )
        yield browser
        browser.close()


@attr.s(auto_attribs=True)
class Watch:
    """What the pages of one context asked for, and what the browser said of them.

    Attributes:
        requests: method and URL of each request.
        complaints: errors and warnings on the console, uncaught exceptions, reports of the
            Content-Security-Policy.
    """

    requests: list[tuple[str, str]] = attr.ib(factory=list)
    complaints: list[str] = attr.ib(factory=list)
    _allowed: list[str] = attr.ib(factory=list)

    def allow(self, pattern: str) -> None:
        """Let complaints, and requests to other hosts, pass in which this expression is found."""
        self._allowed.append(pattern)

    def assert_quiet(self) -> None:
        """Fail for a complaint, and for a request to another host."""
        loud = [complaint for complaint in self.complaints if not self._is_allowed(complaint)]
        assert not loud, "\n".join(loud)
        abroad = [
            url for _, url in self.requests if not _is_local(url) and not self._is_allowed(url)
        ]
        assert not abroad, f"the page asked other hosts: {abroad}"

    def _is_allowed(self, text: str) -> bool:
        return any(re.search(pattern, text) for pattern in self._allowed)

    def start(self, context: BrowserContext) -> None:
        context.on("request", self._on_request)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.complaints.append(f"uncaught: {error.error}"))
        context.expose_binding("reportToTests", lambda _, text: self.complaints.append(text))
        context.add_init_script(_REPORT_VIOLATIONS)

    def _on_request(self, request: Request) -> None:
        self.requests.append((request.method, request.url))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text} ({message.location})")


_REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
    const { effectiveDirective, blockedURI, sourceFile, lineNumber } = event;
    reportToTests(`policy: ${effectiveDirective} ${blockedURI} ${sourceFile}:${lineNumber}`);
});
"""


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("blob", "data", "about") or parts.hostname in _LOOPBACK
