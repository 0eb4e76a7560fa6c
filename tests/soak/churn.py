# SPDX-License-Identifier: AGPL-3.0-or-later
"""Everything that users do to their rules, pushers and devices, at random, with the model beside.

On top of what the model of the cascade does to rules, tags and pushers: devices log out and in,
gateways fail for a while, messages are read and redacted, before they are pushed and after. What
is sent to a process that was ended is sent again, as clients do. Some users have a device that gets
settings of its own, and loses them.
"""

import http.client
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import attr

from demo.client import JsonDict, MatrixError, Response, Route, Session
from demo.gateway import Behaviour, Gateway
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import FENCE, Device, new_pushkey
from tests.server.cascade_model import (
    SCOPES,
    Event,
    Pusher,
    User,
    World,
    give_own_device,
    make_world,
    tweaks,
)
from tests.soak.judging import Pushed, Verdict, judge

_ANSWER_SECONDS = 15.0
_GIVE_UP_SECONDS = 120.0

#: After a receipt or a redaction: a push that was begun before has certainly failed by then.
_BEGUN_PUSH_SECONDS = 1.0

#: How many events a pusher got last, each of which a restart may repeat.
_REMEMBERED = 100


class SureSession(Session):
    """Sends a request again until it is answered."""

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Response:
        """As a session does it; what was done by an attempt that failed is done."""
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        was_cut_off = False
        while True:
            failed: Exception
            try:
                response = super().request(
                    method, path, body, **{"timeout": _ANSWER_SECONDS, **options}
                )
            except (OSError, http.client.HTTPException) as error:
                failed = error
            else:
                if response.status < 500:
                    is_gone = (method == "DELETE" and response.status == 404) or (
                        path.endswith("/logout") and response.status == 401
                    )
                    return Response(200, {}, {}) if was_cut_off and is_gone else response
                failed = MatrixError(method, path, response)
            was_cut_off = True
            if time.monotonic() > deadline:
                raise failed
            time.sleep(0.1)


@attr.s(auto_attribs=True, frozen=True)
class SureUsers:
    """Registers users, and logs devices in, whose requests are sent until they are answered."""

    deployment: Deployment
    route: Route
    _sessions: list[Session] = attr.ib(factory=list, init=False)

    def close(self) -> None:
        """Close the connections of all."""
        for session in self._sessions:
            session.close()

    def register(self) -> SureSession:
        return self._surely(self.deployment.register)

    def login(self, user: Session, device_id: str) -> SureSession:
        return self._surely(lambda: self.deployment.login(user, device_id))

    def _surely(self, log_in: Callable[[], Session]) -> SureSession:
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        while True:
            try:
                plain = log_in()
            except (OSError, http.client.HTTPException, MatrixError) as error:
                is_final = isinstance(error, MatrixError) and error.response.status < 500
                if is_final or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            plain.close()
            session = SureSession(
                route=self.route,
                user_id=plain.user_id,
                device_id=plain.device_id,
                access_token=plain.access_token,
            )
            self._sessions.append(session)
            return session


@attr.s(auto_attribs=True)
class Churn:
    """Rounds of changes, events, and a look at what came."""

    world: World
    users: SureUsers
    pace: Iterator[None]
    #: How many seconds are waited for a fence.
    patience: float
    counts: Counter[str] = attr.ib(factory=Counter)
    verdict: Verdict = attr.ib(factory=Verdict)
    #: What was amiss, in words; the first few are enough.
    findings: list[str] = attr.ib(factory=list)
    _events: dict[str, Event] = attr.ib(factory=dict)
    # The last events that each pusher got, and the pushers of devices that logged out.
    _got: dict[str, list[str]] = attr.ib(factory=dict)
    _gone: list[Pusher] = attr.ib(factory=list)
    # Of this round: the events, and whose device has just got settings of its own.
    _sent: list[Event] = attr.ib(factory=list)
    _switched_on: list[User] = attr.ib(factory=list)
    _devices: int = 0

    @property
    def random(self) -> random.Random:
        return self.world.random

    def round(self, *, may_fail: bool = True) -> None:
        """Change something, send something, and look.

        Args:
            may_fail: whether a gateway may fail meanwhile.
        """
        self._change()
        failing = self._pick_failing() if may_fail and self.random.random() < 0.4 else None
        if failing is not None:
            # What was taken already could not be taken back.
            assert not failing.expected
            self.world.gateway.behave(failing.device.pushkey, Behaviour.ERROR)
        for _ in range(self.random.randint(2, 8)):
            self._send()
        if failing is not None:
            self._take_back(failing)
            self.world.gateway.behave(failing.device.pushkey, Behaviour.OK)
        self._fence()
        if self._read_and_redact():
            self._fence()
        self._look()

    # What changes

    def _change(self) -> None:
        world = self.world
        for user in world.users:
            for _ in range(self.random.randint(0, 3)):
                self._do("rules", lambda user=user: world.change_rule(user))  # type: ignore[misc]
            for what, change, chance in (
                ("pushers and tags", world.change_pusher, 0.6),
                ("rules", world.change_default_rule, 0.15),
                ("rules", world.drop_scope, 0.05),
                ("devices", self._log_out_and_in, 0.2),
            ):
                if self.random.random() < chance:
                    self._do(what, lambda user=user, change=change: change(user))  # type: ignore[misc]
            if user.own is not None and self.random.random() < 0.7:
                self._change_own(user)

    def _do(self, what: str, change: Callable[[], None]) -> None:
        change()
        self.counts[what] += 1

    def _change_own(self, user: User) -> None:
        """Switch a device's own settings, write to them, or log the device out and in again."""
        own, pushers = user.own, [*user.pushers]
        assert own is not None
        was_on = own.is_on
        self.world.change_own(user)
        if user.own is not own:
            own.session.close()
            self._gone += [pusher for pusher in pushers if pusher not in user.pushers]
            self.counts["devices"] += 1
        elif own.is_on != was_on:
            self._switched_on += [user] if own.is_on else []
            self.counts["own settings, on or off"] += 1
        else:
            self.counts["rules of own settings"] += 1

    def _log_out_and_in(self, user: User) -> None:
        """A pusher's device logs out, and the pusher goes; a new device comes with one."""
        own = user.own and user.own.session
        old = next(each for each in reversed(user.pushers) if each.device.user is not own)
        user.pushers.remove(old)
        if old.device.user is not user.session:
            old.device.user.logout()
            old.device.user.close()
        else:
            user.session.delete_pusher(old.device.pushkey, old.device.app_id)
        self._gone.append(old)
        self._devices += 1
        session = self.users.login(user.session, f"DEVICE{self._devices}")
        new = Pusher(Device(session, new_pushkey("soak"), self.world.gateway))
        new.tags = self.random.choices(("global", *SCOPES), k=2)
        new.device.set(profile_tags=new.tags)
        user.pushers.append(new)
        self.world.tell("device", old.device.pushkey, new.device.pushkey, new.tags)

    def _send(self) -> None:
        next(self.pace)
        before = len(self.world.story)
        self.world.send_event()
        event = self.world.story[before][0]
        self._note(event)
        self.counts["events"] += 1

    def _note(self, event: Event) -> None:
        self._events[event.event_id] = event
        self._sent.append(event)

    def _redact(self, event: Event) -> None:
        """Whoever made the rooms redacts an event; that is an event too."""
        world = self.world
        sender = world.senders[0]
        next(self.pace)
        event_id = sender.redact(event.room, event.event_id)
        members = world.rooms[event.room]
        redaction = Event(event_id, event.room, sender.user_id, "m.room.redaction", (), members)
        world.tell("redacts", event.event_id, redaction)
        self._note(redaction)
        for user in world.users:
            user.arrives(redaction)
        # It is not there any more to be edited.
        if world.last.get(event.room) == event.event_id:
            del world.last[event.room]
        self.counts["redactions"] += 1

    def _pick_failing(self) -> Pusher | None:
        # It must be known what waits for it.
        listening = [
            pusher
            for user in self.world.users
            for pusher in user.pushers
            if pusher.enabled and not self._changes_over(user, pusher)
        ]
        return self.random.choice(listening) if listening else None

    def _changes_over(self, user: User, pusher: Pusher) -> bool:
        """Whether a pusher may still go by `global`, as it did before own settings were on.

        What the user rings for has been evaluated by both; the process that pushes may not have
        heard of the switch yet. The other way round it makes no difference: there is nothing of the
        device's own in what is evaluated from then on.
        """
        return user.goes_by_own(pusher) and any(user is each for each in self._switched_on)

    def _by_global(self, user: User, pusher: Pusher) -> dict[str, JsonDict | None]:
        """What a pusher that changes over may push just as well; None for nothing."""
        if not self._changes_over(user, pusher):
            return {}
        others = [event for event in self._sent if event.sender != user.session.user_id]
        rules = {event.event_id: user.walk(["global"], event) for event in others}
        return {
            event_id: tweaks(rule.actions) if rule and "notify" in rule.actions else None
            for event_id, rule in rules.items()
        }

    def _take_back(self, failing: Pusher) -> None:
        """Read or redact what a failing gateway has not taken: it is not to be pushed any more."""
        self.counts["gateways that failed"] += 1
        waiting = [self._events[event_id] for event_id, _ in failing.expected]
        if not waiting or self.random.random() < 0.3:
            return
        # All the others have got it by then.
        self._fence(without=failing)
        event = self.random.choice(waiting)
        if self.random.random() < 0.5:
            self._redact(event)
            gone = {event.event_id}
        else:
            user = next(user for user in self.world.users if failing in user.pushers)
            user.session.read(event.room, event.event_id)
            self.world.tell("reads", user.session.user_id, event.event_id)
            self.counts["receipts"] += 1
            upto = waiting.index(event)
            gone = {e.event_id for e in waiting[: upto + 1] if e.room == event.room}
        failing.expected[:] = [due for due in failing.expected if due[0] not in gone]
        self.users.deployment.settle()
        time.sleep(_BEGUN_PUSH_SECONDS)

    def _read_and_redact(self) -> bool:
        """What was pushed is read or redacted now and then; that takes nothing back.

        Returns:
            Whether there is a redaction, which may be pushed.
        """
        events = [*self._events.values()][-8:]
        if events and self.random.random() < 0.5:
            user, event = self.random.choice(self.world.users), self.random.choice(events)
            user.session.read(event.room, event.event_id)
            self.counts["receipts"] += 1
        plain = [event for event in events if event.type != "m.room.redaction"]
        redacts = bool(plain) and self.random.random() < 0.2
        if redacts:
            self._redact(self.random.choice(plain))
        self._events = dict([*self._events.items()][-50:])
        return redacts

    # What came

    def _fence(self, without: Pusher | None = None) -> None:
        """Send what each pusher that listens at all pushes, and wait for it."""
        world = self.world
        room, sender = next(iter(world.rooms)), world.senders[0]
        event_id = sender.send(room, {"body": "fence"}, FENCE)
        fence = Event(event_id, room, sender.user_id, FENCE, ("fence",), world.rooms[room])
        world.tell("fence", event_id)
        self._note(fence)
        for user in world.users:
            user.arrives(fence)
        deadline = time.monotonic() + self.patience
        for pusher in world.pushers:
            if pusher is without or (event_id not in dict(pusher.expected)):
                continue
            try:
                world.gateway.wait_for(
                    lambda push: push.behaviour is Behaviour.OK,
                    pushkey=pusher.device.pushkey,
                    event_id=event_id,
                    timeout=max(0.1, deadline - time.monotonic()),
                )
            except TimeoutError:
                self.findings.append(f"{pusher.device.pushkey} did not get the fence {event_id}")

    def _look(self) -> None:
        """Compare what came with what the model says."""
        world = self.world
        of_users = [(user, pusher) for user in world.users for pusher in user.pushers]
        for user, pusher in [*of_users, *((None, pusher) for pusher in self._gone)]:
            key = pusher.device.pushkey
            instead = self._by_global(user, pusher) if user is not None else {}
            came: list[Pushed] = [
                (str(push.event_id), push.tweaks)
                for push in pusher.device.pushes()
                if push.behaviour is Behaviour.OK
            ]
            got = self._got.setdefault(key, [])
            verdict = judge(pusher.expected, came, got, instead)
            self.verdict += verdict
            due = dict(pusher.expected)
            self.counts["events that went by `global` at a switch"] += sum(
                dict(came).get(event_id) == other != due.get(event_id)
                for event_id, other in instead.items()
            )
            if verdict.is_bad:
                self.findings.append(
                    f"{key} with {pusher.tags} ({pusher.enabled=}): {verdict};"
                    f" due {pusher.expected}, came {came}, after {world.story}"
                )
            got[:] = [*got, *(event_id for event_id, _ in came)][-_REMEMBERED:]
            pusher.expected.clear()
        # What is pushed to a device that logged out is seen for so many rounds.
        for pusher in self._gone[:-20]:
            self._got.pop(pusher.device.pushkey, None)
        del self._gone[:-20]
        self._sent.clear()
        self._switched_on.clear()
        world.gateway.clear()
        world.story.clear()
        self.counts["rounds"] += 1


def make_churn(
    deployment: Deployment,
    gateway: Gateway,
    route: Route,
    seed: int,
    pace: Iterator[None],
    patience: float,
) -> Churn:
    """Users, rules and rooms, and the model of them."""
    users = SureUsers(deployment, route)
    world = make_world(users, gateway, seed)
    for user in world.users[1:]:  # One has none.
        give_own_device(users, gateway, user)
    return Churn(world, users, pace, patience)


def shown_wrongly(churn: Churn) -> list[str]:
    """The pushers that `GET /pushers` shows otherwise than the model says."""
    wrong = []
    for user in churn.world.users:
        shown: dict[str, JsonDict] = {p["pushkey"]: p for p in user.session.get_pushers()}
        due = {pusher.device.pushkey: pusher for pusher in user.pushers}
        wrong += [f"{key} is there, or is not" for key in shown.keys() ^ due.keys()]
        for key in shown.keys() & due.keys():
            found = (shown[key]["profile_tags"], shown[key]["enabled"])
            wanted = (list(dict.fromkeys(user.tags_of(due[key]))), due[key].enabled)
            if found != wanted:
                wrong.append(f"{key}: {found}, not {wanted}")
    return wrong
