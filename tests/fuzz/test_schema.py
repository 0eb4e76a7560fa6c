# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests made from docs/openapi.yaml, good and bad: answered as described, and never a 5xx.

What is good may still be refused, since a schema cannot say all; what is bad must be.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import requests
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from demo.client import Session
from tests.fuzz.budget import spend
from tests.harness.deployment import CHECKOUT, Deployment
from tests.server.helpers import NOWHERE, RULES, rule, set_pusher

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]

#: Values that lead to something which is there. At random, hardly any would.
KNOWN = {
    "profile_tag": ["phone", "a/b"],
    "kind": list(RULES),
    "rule_id": ["one", "two", "!room:synapse.test"],
    "before": ["one", "two"],
    "after": ["one", "two"],
}

#: How many more inputs there are for a method than for GET.
WEIGHTS = {"GET": 1, "DELETE": 1, "POST": 6, "PUT": 4}

# The types of schemathesis differ from version to version.
Case = Any
Operation = Any
Mode = Any

Operations = Sequence[tuple[Operation, Mode]]

Known = Mapping[str, Sequence[str]]


def operations() -> Operations:
    """Each operation with good and, where it has something to get wrong, bad inputs."""
    config = SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
    schema = schemathesis.openapi.from_path(CHECKOUT / "docs" / "openapi.yaml", config=config)
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    found: list[tuple[Operation, Mode]] = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        has_inputs = any((operation.path_parameters, operation.query, operation.body))
        for mode in modes if has_inputs else modes[:1]:
            found += [(operation, mode)] * WEIGHTS[operation.method.upper()]
    return found


@st.composite
def cases(draw: st.DrawFn, among: Operations, known: Known) -> Case:
    """A request; mostly one that concerns what is there."""
    operation, mode = draw(st.sampled_from(among))
    case: Case = draw(operation.as_strategy(generation_mode=mode))
    for location, values in (
        (ParameterLocation.PATH, case.path_parameters),
        (ParameterLocation.QUERY, case.query),
    ):
        if is_good(case, location):
            for name in sorted(set(values) & set(known)):
                if draw(st.integers(0, 7)):
                    values[name] = draw(st.sampled_from(known[name]))
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("data"), dict) and draw(st.integers(0, 3)):
        # Any other URL is refused. Where something else in the body is bad, it stays so.
        body["data"]["url"] = NOWHERE
        if isinstance(body.get("kind"), str):
            body["kind"] = "http"
    return case


def is_good(case: Case, location: ParameterLocation) -> bool:
    """Whether this part of a request was made as the description says."""
    component = case.meta.components.get(location) if case.meta else None
    return component is not None and component.mode.is_positive


def try_requests(
    session: Session,
    base_url: str,
    among: Operations,
    known: Known,
    tried: Counter[str],
    budget: settings,
) -> None:
    headers = {"Authorization": f"Bearer {session.access_token}"}

    @given(case=cases(among, known))
    @budget
    def answered_as_described(case: Case) -> None:
        response = case.call(base_url=base_url, session=connection, headers=headers)
        tried["requests"] += 1
        tried["accepted" if response.status_code == HTTPStatus.OK else "refused"] += 1
        case.validate_response(response, checks=CHECKS)

    with requests.Session() as connection:
        connection.trust_env = False
        answered_as_described()


def make_user(deployment: Deployment) -> Session:
    """A user with something that requests can be about."""
    user = deployment.register()
    set_pusher(user, enabled=False, profile_tags=["phone"])
    for tag in KNOWN["profile_tag"]:
        for kind in RULES:
            user.put_rule(tag, kind, "one", rule(kind))
    return user


def make_events(user: Session, other: Session) -> Known:
    """Two events in a room, of each user one."""
    room_id = other.create_room(preset="public_chat")
    user.join(room_id)
    return {"room_id": [room_id], "event_id": [one.send(room_id, "x") for one in (user, other)]}


def test_requests_are_answered_as_described(deployment: Deployment, tried: Counter[str]) -> None:
    among = operations()

    def run(budget: settings) -> None:
        user = make_user(deployment)
        stranger = deployment.register()
        known = {**KNOWN, **make_events(user, stranger)}
        untouched = stranger.get_rules()
        try_requests(user, deployment.homeserver.base_url, among, known, tried, budget)
        # What was stored can be read, and is this user's alone.
        user.get_rules()
        for shown in user.get_pushers():
            user.delete_pusher(shown["pushkey"], shown["app_id"])
        assert stranger.get_rules() == untouched
        assert stranger.get_pushers() == []
        deployment.assert_log_is_clean()

    spend(run, examples=200, round_of=400)
    assert tried["accepted"]
    assert tried["refused"]
