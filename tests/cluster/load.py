# SPDX-License-Identifier: AGPL-3.0-or-later
"""A load with known expected pushes, and the count of what was lost, wrong or repeated.

Alice sends, by turns, messages (which `global` notifies about) and things (which it does not),
each with a word that the device scope `phone` makes loud, or silent, or has no rule about. What
each pusher is to push follows from these alone, and from what is in the room at the end: a
request that was cut off may or may not have left an event.
"""

import http.client
import itertools
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attr

from demo.client import JsonDict, MatrixError, Session, path
from demo.gateway import Behaviour, Gateway, Push
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import (
    APP,
    FENCE,
    NOTIFY,
    SIREN,
    THING,
    Action,
    new_pushkey,
    on_body,
    on_type,
)

MESSAGE = "m.room.message"
SOUNDS = {"loud": "siren", "silent": None}
WORDS = ("loud", "silent", "other")

#: What pushers may list. Without the module all of them are to push what `global` says.
TAG_LISTS = (("phone", "global"), ("phone",), ("global", "phone"), ("global",))

# What hangs is accepted when it is released, and nothing here hangs for ever.
_ACCEPTED = (Behaviour.OK, Behaviour.HANG)

_SENDING_SECONDS = 180.0
_PAUSE_SECONDS = 0.03


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Recipient:
    """One pusher of one user."""

    user_id: str
    pushkey: str
    tags: Sequence[str]


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Count:
    """What went wrong with a load.

    Attributes:
        expected: how many pushes there should be.
        lost: how many of them never came.
        wrong: how many came that should not have, or with another sound.
        repeated: how many came that had come, and been accepted, before.
    """

    expected: int
    lost: int
    wrong: int
    repeated: int

    def __str__(self) -> str:
        return (
            f"{self.expected:>6} expected {self.lost:>3} lost {self.wrong:>3} wrong"
            f" {self.repeated:>3} repeated"
        )


def expected_sound(tags: Sequence[str], event_type: str, word: str) -> str | None:
    """How a pusher pushes an event: the sound, "" for none; None where it does not."""
    for tag in tags:
        if tag == "global":
            if event_type == MESSAGE:
                return "default"
        elif word in SOUNDS:
            return SOUNDS[word]
    return None


class Load:
    """Users, rules and pushers for a load on one deployment."""

    def __init__(
        self,
        deployment: Deployment,
        gateway: Gateway,
        users: int = 4,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self.deployment = deployment
        self.gateway = gateway
        self.with_module = deployment.with_module
        self.alice = deployment.register()
        self.room = self.alice.create_room(preset="public_chat")
        self.recipients: list[Recipient] = []
        self.sent = 0
        self._pause_seconds = pause_seconds
        self._counted: set[str] = set()
        self._progress = threading.Condition()
        self._error: BaseException | None = None
        for _ in range(users):
            self._add_user(deployment.register())

    def _add_user(self, user: Session) -> None:
        user.join(self.room)
        user.put_rule("global", "override", "fence", on_type(FENCE, NOTIFY))
        # One-to-one or not does not matter then.
        user.put_rule("global", "underride", "message", on_type(MESSAGE, _DEFAULT_SOUND))
        if self.with_module:
            for word, actions in (("loud", SIREN), ("silent", [])):
                user.put_rule("phone", "override", word, on_body(word, actions))
            user.put_rule("phone", "override", "fence", on_type(FENCE, NOTIFY))
        for tags in TAG_LISTS:
            pushkey = new_pushkey("load")
            fields = {"profile_tags": list(tags)} if self.with_module else {}
            user.set_pusher(pushkey, APP, self.gateway.url, append=True, **fields)
            effective = tags if self.with_module else ("global",)
            self.recipients.append(Recipient(user_id=user.user_id, pushkey=pushkey, tags=effective))

    # Sending

    @contextmanager
    def sending(self, at_least: int = 12) -> Iterator[None]:
        """Send all the while; begin and end with this many events."""
        self.deployment.settle()
        stop = threading.Event()
        thread = threading.Thread(target=self._send_until, args=(stop,), name="load")
        thread.start()
        try:
            self.wait_for_more(at_least)
            yield
            self.wait_for_more(at_least)
        finally:
            stop.set()
            thread.join()
        if self._error is not None:
            raise self._error

    def wait_for_more(self, events: int) -> None:
        """Return when so many more events were sent."""
        with self._progress:
            wanted = self.sent + events
            arrived = self._progress.wait_for(
                lambda: self.sent >= wanted or self._error is not None, _SENDING_SECONDS
            )
            assert arrived, f"only {self.sent} of {wanted} events could be sent"

    def _send_until(self, stop: threading.Event) -> None:
        session = self.deployment.direct(self.alice)
        kinds = itertools.cycle(itertools.product((MESSAGE, THING), WORDS))
        try:
            while not stop.is_set():
                send_surely(session, self.room, *next(kinds))
                with self._progress:
                    self.sent += 1
                    self._progress.notify_all()
                stop.wait(self._pause_seconds)
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            with self._progress:
                self._error = error
                self._progress.notify_all()
        finally:
            session.close()

    # Counting

    def count(self) -> Count:
        """Send a fence, wait until it is pushed everywhere, and count."""
        session = self.deployment.direct(self.alice)
        for recipient in self.recipients:
            # A pusher that failed waits before it tries again, and a wake-up may have been lost
            # while the database was away: an event wakes it, here as in vanilla Synapse.
            _until_pushed(self.gateway, recipient.pushkey, lambda: self._fence(session))
        session.close()
        events = self._events()
        expected, lost, wrong, repeated = 0, 0, 0, 0
        for recipient in self.recipients:
            due = {
                event_id: sound
                for event_id, (event_type, word) in events.items()
                if (sound := expected_sound(recipient.tags, event_type, word)) is not None
            }
            came = [p for p in self.gateway.pushes(recipient.pushkey) if p.event_id in events]
            accepted = Counter(p.event_id for p in came if p.behaviour in _ACCEPTED)
            expected += len(due)
            lost += len(due.keys() - accepted.keys())
            wrong += sum(p.tweaks.get("sound") != due.get(str(p.event_id)) for p in came)
            repeated += sum(accepted.values()) - len(accepted)
        return Count(expected=expected, lost=lost, wrong=wrong, repeated=repeated)

    def count_on(self) -> Count:
        """As `count`, for what was sent since the last one; then forget it."""
        count = self.count()
        self._counted |= self._events().keys()
        self.gateway.clear()
        return count

    def _fence(self, session: Session) -> str:
        return send_surely(session, self.room, FENCE, "fence")

    def _events(self) -> Mapping[str, tuple[str, str]]:
        """What is in the room of this load's events: type and word by event id."""
        rows = self.deployment.sql(
            "SELECT event_id, json FROM event_json WHERE room_id = ?", [self.room]
        )
        parsed = ((event_id, json.loads(event)) for event_id, event in rows)
        return {
            event_id: (event["type"], event["content"]["body"])
            for event_id, event in parsed
            if event["type"] in (MESSAGE, THING) and event_id not in self._counted
        }


_DEFAULT_SOUND: list[Action] = ["notify", {"set_tweak": "sound", "value": "default"}]


def send_surely(session: Session, room: str, event_type: str, word: str) -> str:
    """Send an event, again under the same transaction id until it is accepted, as clients do."""
    where = path("rooms", room, "send", event_type, uuid.uuid4().hex)
    content: JsonDict = {"body": word}
    if event_type == MESSAGE:
        content["msgtype"] = "m.text"
    deadline = time.monotonic() + _SENDING_SECONDS
    while True:
        try:
            event_id: str = session.call("PUT", where, content, timeout=10)["event_id"]
            return event_id
        except (OSError, MatrixError, ConnectionError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise
            if isinstance(error, MatrixError) and error.response.status < 500:
                raise
            time.sleep(0.1)


def _until_pushed(gateway: Gateway, pushkey: str, send: Callable[[], str]) -> Push:
    deadline = time.monotonic() + 90
    while True:
        fence = send()
        try:
            return gateway.wait_for(
                lambda push: push.behaviour is Behaviour.OK,
                pushkey=pushkey,
                event_id=fence,
                timeout=5,
            )
        except TimeoutError:
            if time.monotonic() > deadline:
                raise
