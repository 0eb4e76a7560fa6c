# SPDX-License-Identifier: AGPL-3.0-or-later
"""The examples in the documents for clients, run in their order, and the links in all documents.

An example is two blocks marked ``http``: a request, and the response that must come. Both are
written as HTTP is: a first line, headers, an empty line and a body. In a request,
``Bearer <phone>`` and ``Bearer <desktop>`` stand for the access tokens of one user's two devices,
``<room>`` and ``<event>`` for a room and a message in it, which is sent when it is first spoken of.
A ``Host`` names a server of its own, one of `SERVERS`.
In a response, ``"<any>"`` stands for any value, ``"<absent>"`` for a member that is not there, and
a member ``"…": "…"`` for any further members.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attr
import pytest

from demo.client import Session
from synapse_msc3881.tested import TESTED_VERSIONS
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment

#: Nothing here depends on the database.
pytestmark = pytest.mark.one_deployment

ROOT = Path(__file__).parent.parent.parent
WITH_EXAMPLES = [ROOT / "docs" / "client-api.md", ROOT / "docs" / "client-authors.md"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

#: The servers that examples are sent to, by their `Host`, as options of Deployment.
SERVERS: dict[str | None, dict[str, Any]] = {
    None: {},
    "unmodified.example.org": {"with_module": False},
    "experimental.example.org": {
        "with_module": False,
        "extra": {"experimental_features": {"msc3881_enabled": True}},
    },
}

_BLOCK = re.compile(r"^```http\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MORE = "…"


@attr.s(auto_attribs=True, frozen=True)
class Part:
    """A request or a response: its first line, headers and body."""

    line_number: int
    first: str
    headers: Mapping[str, str]
    body: str

    @classmethod
    def parse(cls, text: str, line_number: int) -> "Part":
        head, _, body = text.partition("\n\n")
        first, *headers = head.strip().splitlines()
        named = dict(header.split(": ", 1) for header in headers)
        return cls(line_number, first, named, body.strip())


def parts_of(document: str) -> list[Part]:
    return [
        Part.parse(block[1], document.count("\n", 0, block.start()) + 1)
        for block in _BLOCK.finditer(document)
    ]


def differences(expected: Any, found: Any, where: str = "body") -> list[str]:
    """How a response's body differs from the documented one; empty where it does not."""
    if expected == "<any>":
        return []
    if isinstance(expected, dict) and isinstance(found, dict):
        not_wanted = [name for name, value in expected.items() if value == "<absent>"]
        wanted = {
            name: value for name, value in expected.items() if name not in (_MORE, *not_wanted)
        }
        missing = [f"{where}.{name} is missing" for name in wanted.keys() - found.keys()]
        further = found.keys() - wanted.keys()
        if _MORE in expected:
            further &= set(not_wanted)
        return [
            *missing,
            *(f"{where}.{name} is not documented" for name in further),
            *(
                difference
                for name in wanted.keys() & found.keys()
                for difference in differences(wanted[name], found[name], f"{where}.{name}")
            ),
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            difference
            for index, (one, other) in enumerate(zip(expected, found, strict=True))
            for difference in differences(one, other, f"{where}[{index}]")
        ]
    # `1 == True` to Python, not to JSON.
    if type(expected) is type(found) and expected == found:
        return []
    return [f"{where} is {json.dumps(found)}, documented is {json.dumps(expected)}"]


class Conversation:
    """A room, and the one message in it."""

    def __init__(self, sender: Session, reader: Session) -> None:
        self._sender = sender
        self._room_id = sender.create_room(preset="public_chat")
        self._event_id: str | None = None
        reader.join(self._room_id)

    def fill_in(self, path: str) -> str:
        if "<event>" in path and self._event_id is None:
            self._event_id = self._sender.send(self._room_id, "This is urgent")
        path = path.replace("<room>", quote(self._room_id, safe=""))
        return path.replace("<event>", quote(self._event_id or "", safe=""))


@attr.s(auto_attribs=True, frozen=True)
class Server:
    """A server that the examples talk to: one user's two sessions, and a room."""

    sessions: Mapping[str, Session]
    conversation: Conversation

    @classmethod
    def set_up(cls, deployment: Deployment) -> "Server":
        phone = deployment.register("alice", device_id="PHONE")
        sessions = {"<phone>": phone, "<desktop>": deployment.login(phone, "DESKTOP")}
        return cls(sessions, Conversation(deployment.register(), phone))


def run(request: Part, response: Part, server: Server) -> list[str]:
    sessions = server.sessions
    method, path = request.first.split(" ")
    path = server.conversation.fill_in(path)
    headers = {name: value for name, value in request.headers.items() if name != "Host"}
    bearer = headers.pop("Authorization", None)
    # Whoever has no token asks as somebody without one.
    session = next(iter(sessions.values()))
    if bearer is not None:
        name = bearer.removeprefix("Bearer ")
        if name in sessions:
            session = sessions[name]
        else:
            headers["Authorization"] = bearer
    found = session.request(
        method,
        path,
        raw_body=request.body.encode() or None,
        headers=headers,
        token=bearer is not None,
    )
    status = int(response.first.split(" ")[1])
    problems = differences(json.loads(response.body), found.json)
    if found.status != status:
        problems.insert(0, f"the status is {found.status}, documented is {status}")
    return [f"line {request.line_number}: {request.first}: {each}" for each in problems]


@pytest.mark.parametrize("document", WITH_EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_what_the_server_answers(
    fresh_deployment: FreshDeployment, document: Path
) -> None:
    parts = parts_of(document.read_text())
    requests, responses = parts[::2], parts[1::2]
    assert len(requests) == len(responses) > 20
    assert all(response.first.startswith("HTTP/1.1 ") for response in responses)
    servers = {
        host: Server.set_up(fresh_deployment(server_name="example.org", **SERVERS[host]))
        for host in dict.fromkeys(request.headers.get("Host") for request in requests)
    }

    problems = [
        problem
        for request, response in zip(requests, responses, strict=True)
        for problem in run(request, response, servers[request.headers.get("Host")])
    ]
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize(
    ("expected", "found", "differs"),
    [
        ({"a": "<any>"}, {"a": [1]}, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1, "…": "…"}, {"a": 1, "b": 2}, False),
        ({"a": 1, "…": "…"}, {"b": 2}, True),
        ({"a": "<absent>"}, {}, False),
        ({"a": "<absent>"}, {"a": None}, True),
        ({"a": "<absent>", "…": "…"}, {"b": 1}, False),
        ({"a": "<absent>", "…": "…"}, {"a": 1, "b": 1}, True),
        ([1], [1, 2], True),
        ([{"a": True}], [{"a": 1}], True),
        ([{"a": True}], [{"a": True}], False),
        ({}, [], True),
    ],
)
def test_a_difference_is_seen(expected: Any, found: Any, differs: bool) -> None:
    assert bool(differences(expected, found)) is differs


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, heading = target.partition("#")
        if re.match(r"https?:", target):
            continue
        linked = document.parent / file if file else document
        if not linked.exists() or (heading and heading not in headings(linked.read_text())):
            missing.append(target)
    assert missing == []


def test_the_dockerfile_is_the_documented_one() -> None:
    dockerfile = (ROOT / "docs" / "examples" / "docker" / "Dockerfile").read_text()
    for document in (ROOT / "README.md", ROOT / "docs" / "admin-guide.md"):
        assert f"```dockerfile\n{dockerfile}```" in document.read_text()
    assert f":v{TESTED_VERSIONS[-1]}\n" in dockerfile


def headings(text: str) -> Sequence[str]:
    """The headings as forges turn them into anchors."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found]
