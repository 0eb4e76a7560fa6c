# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two requests at random distances of 0 to 20 ms: it ends as one after the other could have.

For every pair of ways that write, remove or read a pusher, its tags or rules. What one after the
other gives is not worked out but seen: each pair is run in both orders first, on users of its own.
"""

import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import attr
import pytest

from demo.client import JsonDict, Session, path, rules_path
from demo.homeserver import PASSWORD
from tests.conftest import FreshDeployment
from tests.fuzz.budget import SECONDS
from tests.harness.cluster import Cluster
from tests.harness.deployment import Deployment
from tests.harness.pool_access import MODULE, PATH
from tests.server.helpers import APP, pusher, rule

MOST_APART = 0.02
TAGS = ["phone", "global"]

#: How many pairs are tried in `make test`, on each deployment, and how often each.
PAIRS_TRIED = 8
RACES_OF_A_PAIR = 4


@attr.s(auto_attribs=True)
class Stage:
    """Alice with a phone and a desktop, Bob on the same phone, a room: all new for each race."""

    deployment: Deployment
    pushkey: str
    phone: Session
    desktop: Session
    bob: Session
    room: str = ""
    sessions: list[Session] = attr.ib(factory=list)

    def at_once(self, session: Session) -> Session:
        """Another session of the device, for a thread of its own."""
        self.sessions.append(self.deployment.direct(session))
        return self.sessions[-1]

    def close(self) -> None:
        for session in (self.phone, self.desktop, self.bob, *self.sessions):
            session.close()


Answer = tuple[int, Any]
Way = Callable[[Stage], Answer]


_LOGGED_OUT = "No row found (access_tokens)"


def answer(session: Session, method: str, where: str, body: Any = None) -> Answer:
    response = session.request(method, where, body)
    if response.status == 404 and _LOGGED_OUT in response.json["error"]:
        # Synapse's own answer where the token goes while it is being looked at; also in `global`.
        return 401, None
    return response.status, response.json if method == "GET" else None


def set_by(who: str, **fields: Any) -> Way:
    def act(stage: Stage) -> Answer:
        body = {**pusher(stage.pushkey), **fields}
        return answer(stage.at_once(getattr(stage, who)), "POST", path("pushers", "set"), body)

    return act


def post(who: str, where: str, body: JsonDict | None = None) -> Way:
    def act(stage: Stage) -> Answer:
        return answer(stage.at_once(getattr(stage, who)), "POST", where, body or {})

    return act


def with_password(who: str, method: str, where: str, **fields: Any) -> Way:
    def act(stage: Stage) -> Answer:
        session = getattr(stage, who)
        identifier = {"type": "m.id.user", "user": session.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        return answer(stage.at_once(session), method, where, {"auth": auth, **fields})

    return act


def get(who: str, where: str) -> Way:
    def act(stage: Stage) -> Answer:
        status, body = answer(stage.at_once(getattr(stage, who)), "GET", where)
        return status, plain(body, stage)

    return act


def write_rule(method: str) -> Way:
    def act(stage: Stage) -> Answer:
        where = rules_path("phone", "room", stage.room)
        body = rule("room", ["notify"]) if method == "PUT" else None
        return answer(stage.at_once(stage.desktop), method, where, body)

    return act


def upgrade(stage: Stage) -> Answer:
    session = stage.at_once(stage.desktop)
    where = path("rooms", stage.room, "upgrade")
    status = session.request("POST", where, {"new_version": "11"}).status
    return status, None


def processes(deployment: Deployment) -> list[str]:
    """The base URL of each process that may run pushers."""
    if isinstance(deployment, Cluster):
        ports = deployment.homeserver.replication_ports
        return [f"http://127.0.0.1:{port}" for port in ports.values()]
    return [deployment.homeserver.base_url]


def ask_pool(url: str, method: str, **arguments: str) -> Any:
    session = Session(route=lambda *_: url)
    try:
        return session.call(method, f"{PATH}?{urlencode(arguments)}", token=False)
    finally:
        session.close()


def reject(stage: Stage) -> Answer:
    """As the pusher does whose gateway says that the pushkey is no longer valid."""
    user_id = stage.phone.user_id
    url = processes(stage.deployment)[0]
    if isinstance(stage.deployment, Cluster):
        ports = stage.deployment.homeserver.replication_ports
        url = f"http://127.0.0.1:{ports[stage.deployment.pusher_of(stage.phone)]}"
    ask_pool(url, "PUT", app_id=APP, pushkey=stage.pushkey, user_id=user_id)
    return 200, None


WAYS: Mapping[str, Way] = {
    "set": set_by("phone", profile_tags=TAGS),
    "set other tags": set_by("phone", profile_tags=["desk"], append=True),
    "set without tags": set_by("phone"),
    "off from the desktop": set_by(
        "desktop", profile_tags=TAGS, enabled=False, **{"org.matrix.msc3881.enabled": False}
    ),
    "set by another account": set_by("bob", profile_tags=["bob"]),
    "set by another account beside": set_by("bob", append=True),
    "kind null": set_by("phone", kind=None),
    "logout": post("phone", path("logout")),
    "logout of all": post("desktop", path("logout", "all")),
    "rejected pushkey": reject,
    "device deletion": with_password("desktop", "DELETE", path("devices", "PHONE")),
    "password change": with_password(
        "desktop", "POST", path("account", "password"), new_password="other", logout_devices=True
    ),
    "deactivation": with_password("desktop", "POST", path("account", "deactivate")),
    "get pushers": get("desktop", path("pushers")),
    "get rules": get("desktop", path("pushrules", "device", "")),
    "put rule": write_rule("PUT"),
    "delete rule": write_rule("DELETE"),
    "room upgrade": upgrade,
}

#: These are Synapse's own, and no business of the module when they meet each other.
SYNAPSES = {
    "logout",
    "logout of all",
    "device deletion",
    "password change",
    "deactivation",
    "room upgrade",
}

PAIRS = [
    (one, other)
    for number, one in enumerate(WAYS)
    for other in list(WAYS)[number:]
    if not {one, other} <= SYNAPSES
]


#: What writes or removes a pusher, which is where most can go wrong: these meet more often.
WRITES = {
    "set",
    "set other tags",
    "off from the desktop",
    "set by another account",
    "kind null",
    "logout",
    "rejected pushkey",
    "device deletion",
}
#: In which tags or pushers were lost once.
LOST = [
    ("set", "set by another account"),
    ("set", "logout"),
    ("set", "rejected pushkey"),
    ("set", "kind null"),
]
WEIGHTS = [8 if set(pair) <= WRITES else 1 for pair in PAIRS]


def new_stage(deployment: Deployment, there: bool) -> Stage:
    """Alice's phone has the pusher, or not yet; a rule of her phone's scope is about the room."""
    phone = deployment.register(device_id="PHONE")
    stage = Stage(
        deployment,
        f"key-{secrets.token_hex(6)}",
        phone,
        deployment.login(phone, "DESKTOP"),
        deployment.register(device_id="PHONE"),
    )
    stage.room = phone.create_room(room_version="10")
    phone.put_rule("phone", "room", stage.room, rule("room", []))
    if there:
        set_by("phone", profile_tags=TAGS)(stage)
    deployment.settle()
    return stage


def plain(value: Any, stage: Stage) -> Any:
    """What was seen, without the names that differ from race to race."""
    names = {
        stage.pushkey: "key",
        stage.room: "room",
        stage.phone.user_id: "alice",
        stage.bob.user_id: "bob",
    }
    if isinstance(value, dict):
        return tuple(
            sorted((str(plain(k, stage)), plain(v, stage)) for k, v in value.items() if k != "ts")
        )
    if isinstance(value, list | tuple):
        return tuple(plain(one, stage) for one in value)
    if isinstance(value, str) and value.startswith("!") and value != stage.room:
        return "new room"
    return names.get(value, value) if isinstance(value, str) else value


def end_of(stage: Stage) -> Any:
    """What is stored of the pushers, tags and rules, and what runs."""
    deployment = stage.deployment
    deployment.settle()
    users = [stage.phone.user_id, stage.bob.user_id]
    pushers = deployment.sql(
        "SELECT user_name, device_id, COALESCE(enabled, TRUE) FROM pushers WHERE pushkey = ?",
        [stage.pushkey],
    )
    tags = deployment.sql(
        "SELECT user_id, profile_tags FROM synapse_msc3881_pusher_tags WHERE pushkey = ?",
        [stage.pushkey],
    )
    rules = deployment.sql(
        "SELECT user_id, rule_id, actions FROM synapse_msc3881_device_rules"
        " WHERE user_id IN (?, ?)",
        users,
    )
    running = [
        pair
        for url in processes(deployment)
        for pair in ask_pool(url, "GET", pushkey=stage.pushkey)["running"]
    ]
    stored = [[user, device, bool(enabled)] for user, device, enabled in pushers]
    return tuple(
        tuple(sorted(plain(rows, stage), key=repr)) for rows in (stored, tags, rules, running)
    )


@attr.s(auto_attribs=True, frozen=True)
class Outcome:
    """What two requests were answered, and how it ended."""

    one: Any
    other: Any
    end: Any


class Races:
    """Runs pairs, and knows what one after the other gives."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._serial: dict[Any, list[Outcome]] = {}
        self._pool = ThreadPoolExecutor(2)

    def close(self) -> None:
        self._pool.shutdown()

    def serial(self, pair: tuple[str, str], there: bool) -> list[Outcome]:
        """The outcomes of a pair in both orders."""
        known = self._serial.get((pair, there))
        if known is None:
            known = [self._in_order(pair, there, first) for first in (0, 1)]
            self._serial[pair, there] = known
        return known

    def _in_order(self, pair: tuple[str, str], there: bool, first: int) -> Outcome:
        stage = new_stage(self._deployment, there)
        try:
            answers: dict[int, Answer] = {}
            for number in (first, 1 - first):
                answers[number] = WAYS[pair[number]](stage)
                self._deployment.settle()
            return Outcome(answers[0], answers[1], end_of(stage))
        finally:
            stage.close()

    def race(self, pair: tuple[str, str], there: bool, after: Sequence[float]) -> Outcome:
        """Make both requests, each after so many seconds."""
        stage = new_stage(self._deployment, there)

        def act(number: int) -> Answer:
            time.sleep(after[number])
            return WAYS[pair[number]](stage)

        try:
            made = [self._pool.submit(act, number) for number in (0, 1)]
            one, other = (act.result(60) for act in made)
            return Outcome(one, other, end_of(stage))
        finally:
            stage.close()


@pytest.fixture(params=["sqlite", "cluster"])
def races(request: pytest.FixtureRequest, make_deployment: FreshDeployment) -> Iterator[Races]:
    """On one process, and on the cluster whatever else is asked for."""
    deployment = make_deployment(request.param, further_modules=[MODULE])
    # Synapse's own, where a user or a token goes while it is in use.
    deployment.allow_in_log(r"synapse\.(handlers|storage|replication|rest|http)")
    races = Races(deployment)
    yield races
    races.close()
    deployment.stop()
    deployment.assert_log_is_clean()


def run_pair(
    races: Races, tried: Counter[str], dice: random.Random, pair: tuple[str, str], there: bool
) -> None:
    allowed = races.serial(pair, there)
    tried["pairs"] += 1
    for _ in range(RACES_OF_A_PAIR):
        # Half of them nearly at once: a request takes some milliseconds.
        after = [0.0, dice.uniform(0, dice.choice([MOST_APART, MOST_APART / 8]))]
        dice.shuffle(after)
        found = races.race(pair, there, after)
        tried["races"] += 1
        if found not in allowed:
            listed = "\n".join(f"  {outcome}" for outcome in allowed)
            pytest.fail(
                f"{pair}, there={there}, after {after}\n  found {found}\n"
                f"one after the other gives:\n{listed}"
            )


def run_pairs(races: Races, tried: Counter[str], seed: int) -> None:
    dice = random.Random(seed)
    for pair in dice.choices(PAIRS, WEIGHTS, k=PAIRS_TRIED):
        run_pair(races, tried, dice, pair, there=dice.random() < 0.7)


def test_two_requests_at_once_end_as_one_after_the_other(races: Races, tried: Counter[str]) -> None:
    for pair in LOST:
        run_pair(races, tried, random.Random(9), pair, there=True)
    if not SECONDS:
        run_pairs(races, tried, 9)
        return
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        run_pairs(races, tried, secrets.randbelow(1_000_000))
