# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/openapi.yaml is valid, and what a real server answers is what it says."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import attr
import jsonschema
import openapi_spec_validator
import pytest
import yaml
from synapse.http.servlet import RestServlet

from demo.client import JsonDict, Response, Session
from synapse_msc3881 import rest
from tests.harness.deployment import CHECKOUT, Deployment
from tests.server.helpers import NOWHERE, RULES, pusher, rule

#: Nothing here depends on the database.
pytestmark = pytest.mark.one_deployment

OPENAPI = CHECKOUT / "docs" / "openapi.yaml"
METHODS = ("get", "put", "post", "delete")

#: Only a worker that does not write push rules answers with the first, and only who asks too often
#: gets the other, of which test_explain.py makes sure.
ELSEWHERE = (405, 429)


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands there twice, as most other parsers do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"twice: {node.start_mark} {keys}"
        return super().construct_mapping(node, deep)


@attr.s(auto_attribs=True, frozen=True)
class Description:
    """The OpenAPI document."""

    document: JsonDict

    @classmethod
    def read(cls) -> "Description":
        return cls(yaml.load(OPENAPI.read_text(encoding="utf-8"), StrictLoader))

    def operations(self) -> Iterator[tuple[str, str, JsonDict]]:
        """Path, method and description of each operation."""
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method in item:
                    yield path, method, item[method]

    def find(self, operation_id: str) -> tuple[str, str, JsonDict]:
        (found,) = (one for one in self.operations() if one[2]["operationId"] == operation_id)
        return found

    def answers(self) -> set[tuple[str, int]]:
        """Every operation with every status that it may answer."""
        return {
            (operation["operationId"], int(status))
            for _, _, operation in self.operations()
            for status in operation["responses"]
        }

    def examples(self) -> Iterator[tuple[Any, JsonDict]]:
        """Each example, wherever it stands, with the schema that it is of."""
        yield from self._examples_below(self.document)
        for schema in self.document["components"]["schemas"].values():
            yield from ((example, schema) for example in schema.get("examples", []))

    def check(self, value: Any, schema: JsonDict) -> None:
        """Fail for a value that is not as the schema says."""
        whole = {**schema, "components": self.document["components"]}
        jsonschema.Draft202012Validator(whole).validate(value)

    def check_response(self, operation_id: str, response: Response) -> None:
        responses = self.find(operation_id)[2]["responses"]
        where = f"{operation_id}: {response.status} {response.body[:300]!r}"
        assert str(response.status) in responses, where
        described = self.resolve(responses[str(response.status)])
        ((media_type, media),) = described["content"].items()
        assert response.headers["content-type"] == media_type, where
        assert response.json is not None, where
        self.check(response.json, media["schema"])

    def check_request(self, operation_id: str, body: Any) -> None:
        """Fail for a body that the description does not allow."""
        content = self.find(operation_id)[2]["requestBody"]["content"]
        self.check(body, content["application/json"]["schema"])

    def check_rule(self, kind: str, body: Any) -> None:
        """Fail for a body that the description does not allow for a rule of this kind."""
        names = {"content": "NewContentRule", "room": "NewIdRule", "sender": "NewIdRule"}
        name = names.get(kind, "NewConditionRule")
        self.check(body, {"$ref": f"#/components/schemas/{name}"})

    def resolve(self, value: JsonDict) -> JsonDict:
        """The object itself, where a reference to it may stand."""
        found: JsonDict = self.document if "$ref" in value else value
        for part in value.get("$ref", "#").split("/")[1:]:
            found = found[part]
        return found

    def _examples_below(self, value: Any) -> Iterator[tuple[Any, JsonDict]]:
        """Those of media types and parameters, which have a schema beside them."""
        if isinstance(value, dict) and isinstance(value.get("schema"), dict):
            if "example" in value:
                yield value["example"], value["schema"]
            for example in value.get("examples", {}).values():
                yield example["value"], value["schema"]
        elif isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from self._examples_below(part)


def servlets() -> list[type[RestServlet]]:
    """The servlets of the module."""
    modules = [
        importlib.import_module(f"{rest.__name__}.{found.name}")
        for found in pkgutil.iter_modules(rest.__path__)
    ]
    return [
        member
        for module in modules
        for member in vars(module).values()
        if isinstance(member, type)
        and issubclass(member, RestServlet)
        and member.__module__ == module.__name__
    ]


def serves(servlet: type[RestServlet], path: str) -> bool:
    return any(pattern.match(path) for pattern in servlet.PATTERNS or ())


@attr.s(auto_attribs=True, frozen=True)
class Call:
    """A request, and the status that it must get. A valid body has to be as described, too."""

    operation_id: str
    status: int = 200
    path: Mapping[str, str] = attr.ib(factory=dict)
    query: Mapping[str, str] = attr.ib(factory=dict)
    body: Any = None
    token: bool = True


@pytest.fixture(scope="module")
def description() -> Description:
    return Description.read()


def test_the_description_is_valid(description: Description) -> None:
    openapi_spec_validator.validate(description.document)
    names = [operation["operationId"] for _, _, operation in description.operations()]
    assert len(set(names)) == len(names)


def test_examples_are_as_described(description: Description) -> None:
    examples = list(description.examples())
    assert len(examples) > 25
    for example, schema in examples:
        description.check(example, schema)


def test_each_servlet_is_described_and_nothing_else(description: Description) -> None:
    served = [
        (method, servlet)
        for servlet in servlets()
        for method in METHODS
        if hasattr(servlet, f"on_{method.upper()}")
    ]
    assert {servlet.__name__ for _, servlet in served} > {"PushRulesServlet", "PushersSetServlet"}
    described = [(method, path) for path, method, _ in description.operations()]
    for one, servlet in served:
        assert any(one == method and serves(servlet, path) for method, path in described), servlet
    for method, path in described:
        assert any(method == one and serves(servlet, path) for one, servlet in served), path


def test_it_can_be_rendered(description: Description) -> None:
    """Whoever reads it finds a title, a tag that is explained, and an example of each body."""
    tags = {tag["name"] for tag in description.document["tags"] if tag["description"]}
    used = set()
    for path, method, operation in description.operations():
        assert operation["summary"], (method, path)
        used.update(operation["tags"])
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for answer in operation["responses"].values():
            bodies.append(description.resolve(answer))
            assert bodies[-1]["description"], (method, path)
        for body in bodies:
            for media in body["content"].values():
                assert "example" in media or "examples" in media, (method, path)
    assert used == tags
    for name, schema in description.document["components"]["schemas"].items():
        assert "description" in schema, name


RULE = {"profile_tag": "a/b", "kind": "override", "rule_id": "one"}
SCOPE = {"profile_tag": "a/b"}
UNKNOWN_SCOPE = {**RULE, "profile_tag": "unknown"}
UNKNOWN_RULE = {**RULE, "rule_id": "unknown"}
BAD_SCOPE = {**RULE, "profile_tag": "global"}

HUGE: JsonDict = {"set_tweak": "x" * 1024}


def calls(user: Session, room_id: str, event_id: str, own_event_id: str) -> list[Call]:
    """The ways through each operation: every status that it is described with, in order.

    Args:
        user: who calls.
        room_id: a room that the user is in.
        event_id: an event in it of which the user is notified.
        own_event_id: an event in it of the user's.
    """
    event = {"room_id": room_id, "event_id": event_id}
    device, unknown, bad = ({"device_id": name} for name in (user.device_id, "unknown", "global"))
    mine, others = {"user_id": user.user_id}, {"user_id": "@other:example.org"}
    writes = [
        Call("setPusher", body=pusher(profile_tags=["a/b", "global"], enabled=False)),
        Call("setPusher", body=pusher("other", lang=None, append=True)),
        Call("setPusher", body=pusher("gone")),
        Call("setPusher", body={"kind": None, "app_id": pusher()["app_id"], "pushkey": "gone"}),
        Call("setPusher", 400, body=pusher(enabled=None)),
        Call("setPusher", 400, body=pusher(data={})),
        Call("setPusher", 400, body=[]),
        *(
            Call("putDeviceRule", path={**RULE, "kind": kind}, body=rule(kind, ["notify"]))
            for kind in RULES
        ),
        Call("putDeviceRule", path={**RULE, "rule_id": "two"}, query={"after": "one"}, body=rule()),
        Call("putDeviceRule", 400, UNKNOWN_RULE, {"before": "unheard-of"}, rule()),
        Call("putDeviceRule", 400, RULE, body={"actions": []}),
        Call("putDeviceRule", 413, RULE, body=rule(actions=[HUGE])),
        Call("putDeviceRuleEnabled", path=RULE, body={"enabled": False}),
        Call("putDeviceRuleEnabled", path=RULE, body=True),
        Call("putDeviceRuleEnabled", 400, RULE, body={"enabled": 1}),
        Call("putDeviceRuleEnabled", 404, UNKNOWN_RULE, body=True),
        Call("putDeviceRuleActions", path=RULE, body={"actions": [{"set_tweak": "highlight"}]}),
        Call("putDeviceRuleActions", 400, RULE, body={"actions": ["shout"]}),
        Call("putDeviceRuleActions", 404, UNKNOWN_RULE, body={"actions": []}),
        Call("putDeviceRuleActions", 413, RULE, body={"actions": [HUGE]}),
        Call("putOwnSettings", path=device, body={"enabled": True}),
        Call("putOwnSettings", path=device, body={"enabled": False}),
        Call("putOwnSettings", 400, bad, body={"enabled": True}),
        Call("putOwnSettings", 400, device, body={"enabled": 1}),
        Call("putOwnSettings", 404, unknown, body={"enabled": True}),
        Call("putPushRulesInAccountData", 405, mine, body={}),
        Call("putPushRulesInAccountData", 403, others, body={}),
    ]
    reads = [
        Call("getVersions"),
        Call("getVersions", token=False),
        Call("getPushers"),
        Call("getPushRules"),
        Call("getDeviceScopes"),
        Call("getOwnSettings", path=device),
        Call("getOwnSettings", 400, bad),
        Call("getOwnSettings", 404, unknown),
        Call("getPushRulesInAccountData", path=mine),
        Call("getPushRulesInAccountData", 403, others),
        Call("getDeviceScope", path=SCOPE),
        *(Call("getDeviceRulesOfKind", path={**RULE, "kind": kind}) for kind in RULES),
        *(Call("getDeviceRule", path={**RULE, "kind": kind}) for kind in RULES),
        Call("getDeviceRuleEnabled", path=RULE),
        Call("getDeviceRuleActions", path=RULE),
        *(
            Call("getDeviceRuleAttribute", path={**RULE, "attribute": attribute})
            for attribute in ("rule_id", "default", "conditions")
        ),
        Call("getDeviceRuleAttribute", path={**RULE, "kind": "content", "attribute": "pattern"}),
        Call("getDeviceRuleAttribute", 400, {**RULE, "attribute": "pattern"}),
        Call("getNotifications", query={"limit": "1"}),
        Call("getNotifications", 400, query={"from": "x"}),
        Call("explain", path=event),
        Call("explain", path={**event, "event_id": own_event_id}),
        Call("explain", 400, {**event, "event_id": "x"}),
        Call("explain", 404, {**event, "event_id": "$x"}),
    ]
    of_a_scope = [
        "getDeviceScope",
        "getDeviceRulesOfKind",
        "getDeviceRule",
        "getDeviceRuleEnabled",
        "getDeviceRuleActions",
        "getDeviceRuleAttribute",
    ]
    failures = [
        Call(name, status, {**where, "attribute": "default"})
        for name in of_a_scope
        for status, where in ((400, BAD_SCOPE), (404, UNKNOWN_SCOPE))
    ]
    deletes = [
        Call("deleteDeviceRule", path=RULE),
        Call("deleteDeviceRule", 404, RULE),
        Call("deleteDeviceRule", 400, BAD_SCOPE),
    ]
    return [*writes, *reads, *failures, *deletes]


def send(description: Description, session: Session, call: Call) -> Response:
    template, method, operation = description.find(call.operation_id)
    where = template
    for name, value in call.path.items():
        where = where.replace(f"{{{name}}}", quote(value, safe=""))
    if call.query:
        where = f"{where}?{urlencode(call.query)}"
    if call.status == 200 and "requestBody" in operation:
        description.check_request(call.operation_id, call.body)
    return session.request(method.upper(), where, call.body, token=call.token)


def test_the_server_answers_as_described(deployment: Deployment, description: Description) -> None:
    """Each operation, with each status that the description lists."""
    alice, bob = deployment.register(), deployment.register()
    # Something to be notified of.
    room = bob.create_room(invite=[alice.user_id])
    alice.join(room)
    events = bob.send(room, "hello"), alice.send(room, "hello")
    seen = set()
    stranger = attr.evolve(alice, access_token="unknown")

    for call in calls(alice, room, *events):
        response = send(description, alice, call)
        assert response.status == call.status, (call, response)
        description.check_response(call.operation_id, response)
        seen.add((call.operation_id, response.status))

    for template, method, operation in description.operations():
        name = operation["operationId"]
        where = template.replace("{kind}", "override").replace("{attribute}", "default")
        response = stranger.request(method.upper(), where, {})
        assert response.status == 401, (name, response)
        description.check_response(name, response)
        seen.add((name, response.status))
    stranger.close()

    described = {answer for answer in description.answers() if answer[1] not in ELSEWHERE}
    assert {answer for answer in seen if answer[1] not in ELSEWHERE} == described


def test_what_is_described_as_refused_is_refused(alice: Session, description: Description) -> None:
    """The schemas are not wider than they look: what they exclude the server does not take."""
    for body in (
        pusher(enabled="true"),
        pusher(profile_tags=[""]),
        pusher(profile_tags=["a\nb"]),
        pusher(profile_tags="phone"),
        pusher(profile_tags=["x"] * 101),
        pusher("x" * 2049),
        pusher(app_id="x" * 256),
        pusher(data=[]),
        {"kind": None, "app_id": "x"},
        {**pusher(), "data": {"url": NOWHERE}, "lang": 5},
    ):
        with pytest.raises(jsonschema.ValidationError):
            description.check_request("setPusher", body)
        response = send(description, alice, Call("setPusher", 400, body=body))
        assert response.status == 400, (body, response)
    bad_bodies: list[tuple[str, Any]] = [
        ("putDeviceRule", {"conditions": []}),
        ("putDeviceRule", rule(actions=["shout"])),
        ("putDeviceRule", None),
        ("putDeviceRuleEnabled", {"enabled": "yes"}),
        ("putDeviceRuleActions", ["notify"]),
    ]
    for name, bad in bad_bodies:
        with pytest.raises(jsonschema.ValidationError):
            description.check_request(name, bad)
        response = send(description, alice, Call(name, 400, RULE, body=bad))
        assert response.status == 400, (name, bad, response)
    for kind, body in (
        ("override", {"actions": []}),
        ("underride", {"actions": [], "conditions": [{}]}),
        ("override", {"actions": [], "conditions": {}}),
        ("content", {"actions": []}),
        ("content", {"actions": [], "pattern": 5}),
        ("room", {}),
        ("sender", {"actions": ["shout"]}),
    ):
        description.check_rule(kind, rule(kind))
        with pytest.raises(jsonschema.ValidationError):
            description.check_rule(kind, body)
        response = send(
            description, alice, Call("putDeviceRule", 400, {**RULE, "kind": kind}, body=body)
        )
        assert response.status == 400, (kind, body, response)
