# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real push gateway on loopback that remembers what it is sent, and misbehaves when told to."""

import enum
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import attr
from typing_extensions import Self

from demo.loopback import LoopbackServer, OneAnswerHandler
from demo.running import Running

JsonDict = dict[str, Any]

NOTIFY_PATH = "/_matrix/push/v1/notify"


class Behaviour(enum.Enum):
    """How the gateway treats the pushes for one pushkey. It records them in every case."""

    OK = "answers 200"
    ERROR = "answers 500"
    HANG = "answers nothing until told how"
    CLOSE = "closes the connection without an answer"
    REJECT = "answers that the pushkey is no longer valid"


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Push:
    """One device's part of one notify request.

    Attributes:
        event_id: None in a push that only updates the badge.
        room_id, type: of the event; None also where the pusher asked for `event_id_only`.
        counts, tweaks: {} where absent.
        prio: "high" or "low"; "high" where absent, as the push gateway API says.
        notification: the request's `notification` object, as received.
        received_at: `time.monotonic()` of its arrival.
        behaviour: how the gateway treated it; of one that hung, that it did.
    """

    pushkey: str
    app_id: str
    event_id: str | None
    room_id: str | None
    type: str | None
    counts: JsonDict
    tweaks: JsonDict
    prio: str
    notification: JsonDict
    received_at: float
    behaviour: Behaviour

    @property
    def is_badge_update(self) -> bool:
        return self.event_id is None


def sound_and_tweaks(tweaks: Mapping[str, Any]) -> list[str]:
    """A push's tweaks for people: the sound by name, others as they are, false ones left out."""
    shown = {name: value for name, value in tweaks.items() if value is not False}
    sound = shown.pop("sound", None)
    rest = [name if value is True else f"{name} {value}" for name, value in shown.items()]
    return rest if sound is None else [str(sound), *rest]


class Gateway(Running):
    """Serves while it runs; thread safe.

    The clients of one server may share it: everything is told apart by pushkey.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pushes: list[Push] = []
        self._behaviours: dict[str, Behaviour] = {}
        self._closed = False
        self._server = _Server(self)

    @property
    def url(self) -> str:
        """The `data.url` for a pusher."""
        return f"{self._server.url}{NOTIFY_PATH}"

    def start(self) -> Self:
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop listening, and drop the connections of pushes that hang."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.stop()

    def pushes(self, pushkey: str | None = None) -> list[Push]:
        """What arrived so far, oldest first; for one pushkey or for all."""
        with self._changed:
            return [p for p in self._pushes if pushkey in (None, p.pushkey)]

    def clear(self) -> None:
        """Forget what arrived so far."""
        with self._changed:
            self._pushes.clear()

    def wait_for(
        self,
        predicate: Callable[[Push], bool] | None = None,
        *,
        pushkey: str | None = None,
        event_id: str | None = None,
        timeout: float = 30.0,
    ) -> Push:
        """The first push, also among those already here, that is all of what was asked for.

        Raises:
            TimeoutError: if none came; the message lists what did come.
        """

        def first() -> Push | None:
            return next(
                (
                    push
                    for push in self._pushes
                    if pushkey in (None, push.pushkey)
                    and event_id in (None, push.event_id)
                    and (predicate is None or predicate(push))
                ),
                None,
            )

        with self._changed:
            push = self._changed.wait_for(first, timeout)
            if push is None:
                came = [(p.pushkey, p.event_id, p.tweaks, p.counts) for p in self._pushes]
                raise TimeoutError(
                    f"no such push (pushkey={pushkey}, event_id={event_id}) in {timeout:g}"
                    f" seconds; these came: {came}"
                )
            return push

    def behave(self, pushkey: str, behaviour: Behaviour) -> None:
        """Treat this pushkey's pushes so from now on, and those that hang."""
        with self._changed:
            self._behaviours[pushkey] = behaviour
            self._changed.notify_all()

    def release(self, pushkey: str) -> None:
        """Answer this pushkey's hanging pushes, and its further ones, with 200."""
        self.behave(pushkey, Behaviour.OK)

    def _receive(self, body: bytes) -> list[Push]:
        """Record a notify request: one push for each device in it."""
        now = time.monotonic()
        notification = json.loads(body)["notification"]
        with self._changed:
            pushes = [
                Push(
                    pushkey=device["pushkey"],
                    app_id=device["app_id"],
                    event_id=notification.get("event_id"),
                    room_id=notification.get("room_id"),
                    type=notification.get("type"),
                    counts=notification.get("counts", {}),
                    tweaks=device.get("tweaks", {}),
                    prio=notification.get("prio", "high"),
                    notification=notification,
                    received_at=now,
                    behaviour=self._behaviours.get(device["pushkey"], Behaviour.OK),
                )
                for device in notification["devices"]
            ]
            self._pushes += pushes
            self._changed.notify_all()
        return pushes

    def _how_to_treat(self, push: Push) -> Behaviour | None:
        """How to treat a push, once that is told; None if the gateway closed meanwhile."""
        if push.behaviour is not Behaviour.HANG:
            return push.behaviour

        def told() -> Behaviour | None:
            behaviour = self._behaviours[push.pushkey]
            return None if behaviour is Behaviour.HANG else behaviour

        with self._changed:
            self._changed.wait_for(lambda: self._closed or told())
            return None if self._closed else told()


class _Server(LoopbackServer):
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        super().__init__("push gateway", _Handler)


class _Handler(OneAnswerHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.body()
        if self.path != NOTIFY_PATH:
            self.answer(404, {"errcode": "M_UNRECOGNIZED", "error": self.path})
            return
        try:
            pushes = self.server.gateway._receive(body)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            self.answer(400, {"errcode": "M_BAD_JSON", "error": repr(e)})
            return
        self._treat(pushes)

    def _treat(self, pushes: list[Push]) -> None:
        """Answer for all devices of the request; Synapse names one per request."""
        treated = {p.pushkey: self.server.gateway._how_to_treat(p) for p in pushes}
        behaviours = {*treated.values()}
        if behaviours & {None, Behaviour.CLOSE}:
            return
        if Behaviour.ERROR in behaviours:
            self.answer(500, {"errcode": "M_UNKNOWN", "error": "told to fail"})
            return
        rejected = [pushkey for pushkey, how in treated.items() if how is Behaviour.REJECT]
        self.answer(200, {"rejected": rejected})
