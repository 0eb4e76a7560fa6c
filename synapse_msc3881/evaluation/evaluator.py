# SPDX-License-Identifier: AGPL-3.0-or-later
"""Event time: the highest-priority matching rule in each scope that a user's pushers list.

Synapse evaluates each event for each local user before it persists it (specification 4), in one
coroutine. Its steps, and what we do at each:

1. It reads the rules of all users whom the event may concern. `Evaluation.bulk_get_push_rules`
   finds the compiled scopes of those who have any, and creates an `EventEvaluation` for them.
2. It creates its evaluator for the event. `wrap_evaluator` replaces that with the event's
   `EventEvaluation`.
3. It runs the rules of each user. `EventEvaluation.run` runs the user's device scopes as well, and
   returns what is to be stored if they matter.
4. It stores the actions. `Evaluation.add_to_staging` puts the outcomes into the user's row, in the
   same statement (see `outcomes`).

If none of our users is concerned, Synapse does all of this alone.

Nothing here may fail an event: whatever goes wrong for a user is reported, and for this event that
user's pushers use the `global` rules. For a user whose rules take too much of the server's time,
only rules with patterns do not match (see `spending`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any

import attr

from synapse_msc3881.cascade.outcomes import (
    FAILED,
    OwnMatch,
    Recorded,
    StoredActions,
    with_outcomes,
)
from synapse_msc3881.cascade.profile_tags import GLOBAL, Action, Match
from synapse_msc3881.evaluation.compiling import compile_always
from synapse_msc3881.evaluation.device_scopes import DeviceScopes
from synapse_msc3881.evaluation.held_scopes import Failed
from synapse_msc3881.evaluation.matching import UserScopes
from synapse_msc3881.evaluation.running import (
    CompiledRules,
    EventFacts,
    Run,
    RunNative,
    find_facts,
)
from synapse_msc3881.evaluation.spending import EventShare, MeteredRun, Spending, TooCostlyError
from synapse_msc3881.evaluation.suppression import (
    Memo,
    Suppression,
    rings_below_overrides,
    suppress,
)
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.metrics import Metrics
from synapse_msc3881.seams import RuleCompiler, write_as_text

# The event that the current coroutine evaluates; None if none of our users is concerned.
_event: ContextVar[EventEvaluation | None] = ContextVar("msc3837_event", default=None)


@attr.s(auto_attribs=True, frozen=True, slots=True, eq=False)
class Tools:
    """What all events of a homeserver are evaluated with.

    Attributes:
        always: from `compile_always`.
        suppression: what the server-default rules keep quiet.
        spending: what users' rules have cost.
        failures: where failures are reported.
    """

    always: CompiledRules
    suppression: Suppression
    spending: Spending
    failures: Failures


class Evaluation:
    """The module's part in one homeserver's evaluation of events: the first and the last step."""

    def __init__(
        self,
        scopes: DeviceScopes,
        compiler: RuleCompiler,
        spending: Spending,
        failures: Failures,
        metrics: Metrics,
    ) -> None:
        self._scopes = scopes
        self._metrics = metrics
        self.tools = Tools(
            compile_always(compiler.compile), Suppression(compiler), spending, failures
        )

    async def bulk_get_push_rules(
        self,
        native: Callable[[Collection[str]], Awaitable[Mapping[str, Any]]],
        user_ids: Collection[str],
    ) -> Mapping[str, Any]:
        """Wrap the read of the rules of all users whom an event may concern."""
        rules = await native(user_ids)
        users = self._scopes.users_among(user_ids)
        scopes = await self._scopes.for_users(users, rules) if users else None
        _event.set(EventEvaluation(self.tools, scopes) if scopes else None)
        return rules

    async def add_to_staging(
        self,
        native: Callable[..., Awaitable[None]],
        event_id: str,
        user_id_actions: Mapping[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Wrap the write of an event's actions for all users."""
        event = _event.get()
        if event is not None:
            write_as_text(StoredActions)
            # Counted once per event: once per user would take noticeable time.
            self._metrics.evaluated(event.evaluated)
            event.evaluated = 0
            user_id_actions = {
                user_id: actions.stored if isinstance(actions, StagedActions) else actions
                for user_id, actions in user_id_actions.items()
            }
        await native(event_id, user_id_actions, *args, **kwargs)


def wrap_evaluator(native: Any, flattened_keys: Mapping[str, Any]) -> Any:
    """Choose the evaluator for an event: Synapse's own, unless one of our users is concerned."""
    event = _event.get()
    return native if event is None else event.in_place_of(native, flattened_keys)


@attr.s(auto_attribs=True, slots=True, eq=False)
class EventEvaluation:
    """One event and what it takes to evaluate it for each user. To Synapse, an evaluator.

    Attributes:
        users: those of our users whom the event concerns, with their device scopes.
        evaluated: how many scopes have been evaluated so far.
        run_native: the `run` of Synapse's evaluator.
    """

    _tools: Tools
    users: Mapping[str, UserScopes | Failed]
    evaluated: int = attr.ib(default=0, init=False)
    # Synapse creates its evaluator after the users are known.
    run_native: RunNative = attr.ib(init=False)
    _native: Any = attr.ib(init=False)
    _flattened_keys: Mapping[str, Any] = attr.ib(init=False)
    # What matching needs to know about the event, once it is needed.
    _facts: EventFacts | None = attr.ib(default=None, init=False)
    _share: EventShare = attr.ib(factory=EventShare, init=False)
    # What `suppression` has found out about the event.
    _default_rules: Memo = attr.ib(factory=dict, init=False)

    def in_place_of(self, native: Any, flattened_keys: Mapping[str, Any]) -> EventEvaluation:
        """Itself, with Synapse's evaluator and the event as that evaluator got it."""
        self._native = native
        self.run_native = native.run
        self._flattened_keys = flattened_keys
        return self

    def __getattr__(self, name: str) -> Any:
        if name in EventEvaluation.__slots__:  # Before `in_place_of`.
            raise AttributeError(name)
        return getattr(self._native, name)

    def run(self, rules: Any, user_id: str, *user: Any) -> Collection[Action]:
        """Synapse's `run`: the actions of the first matching rule for one user.

        Args:
            rules: the user's `global` rules.
            user_id: the user.
            user: what else Synapse passes on: the display name, and more in newer versions.

        Returns:
            The actions of `global`; if device scopes matter, those to store, as `StagedActions` if
            they do not notify.
        """
        actions: Collection[Action] = self.run_native(rules, user_id, *user)
        scopes = self.users.get(user_id)
        if scopes is None:
            return actions
        if isinstance(scopes, Failed):
            return _with_failure(actions)
        run = None
        try:
            facts = self._facts or self._find_facts()
            if not (scopes.complete or scopes.are_many or scopes.could_match(facts)):
                return actions
            self.evaluated += len(scopes.scopes)
            run = MeteredRun(
                self.run_native,
                (user_id, *user),
                self._tools.spending,
                self._share,
                len(scopes.complete),
            )
            return self._run_scopes(scopes, rules, actions, facts, run)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001
            # A panic in Rust is not an Exception, but must not fail the event either.
            self._tools.failures.report(Fallback.EVALUATE, user_id, error)
            return _with_failure(actions)
        finally:
            if run is not None:
                run.settle()
                if run.skipped:
                    self._tools.failures.report(Fallback.COST, user_id, TooCostlyError())

    def _find_facts(self) -> EventFacts:
        self._facts = find_facts(self.run_native, self._tools.always, self._flattened_keys)
        return self._facts

    def _run_scopes(
        self,
        scopes: UserScopes,
        rules: CompiledRules,
        actions: Collection[Action],
        facts: EventFacts,
        run: MeteredRun,
    ) -> Collection[Action]:
        if scopes.are_many:
            run.look_at(sum(len(scope.groups) for scope in scopes.scopes.values()))
        matches = match_scopes(scopes, run, facts)
        own = take_own(scopes.complete, matches, actions) if scopes.complete else _NO_OWN
        if not matches and not own:
            return actions
        outcomes: Mapping[str, Recorded] = matches
        if rings_below_overrides(matches):
            default_rule = self._tools.suppression.silencing_rule(
                self.run_native, self._default_rules, rules, run.user
            )
            if default_rule is not None:
                outcomes = suppress(matches, default_rule)
        if own:
            outcomes = {**outcomes, **own}
        if "notify" not in actions:
            if not any(match.notifies for match in outcomes.values()):
                # No walk can lead to a push, so there is no row, just as without us.
                return actions
            if scopes.needs_global_match and (
                # Any action means that it matched.
                actions or scopes.matches_global(rules, run, facts)
            ):
                outcomes = {**outcomes, GLOBAL: Match([])}
        stored = with_outcomes(actions, outcomes)
        return stored if "notify" in actions else _staged(stored)


def match_scopes(scopes: UserScopes, run: Run, event: EventFacts) -> dict[str, Match]:
    """The highest-priority match of each device scope that has one."""
    matches = {}
    for tag, scope in scopes.scopes.items():
        match = scope.match(run, event)
        if match is not None:
            matches[tag] = match
    return matches


def take_own(
    complete: Mapping[str, bool], matches: dict[str, Match], actions: Collection[Action]
) -> Mapping[str, OwnMatch]:
    """Move the results of the complete scopes out of the matches (specification 9).

    Args:
        complete: those scopes, and whether a pusher lists each.
        matches: the matches of all scopes.
        actions: the actions of `global`.

    Returns:
        Those results that must be recorded: they differ from `global`, or a pusher lists the scope.
    """
    found = {}
    pushes = "notify" in actions
    for device_id, is_listed in complete.items():
        match = matches.pop(device_id, None)
        if match is None:
            if pushes:
                found[device_id] = OwnMatch(None)
        elif is_listed or ((pushes or match.notifies) and match.actions != actions):
            found[device_id] = OwnMatch(match)
    return found


_NO_OWN: Mapping[str, OwnMatch] = {}


def _with_failure(actions: Collection[Action]) -> Collection[Action]:
    """Have the user's pushers use the `global` rules; if these are silent, there is no row."""
    return [FAILED, *actions] if "notify" in actions else actions


class StagedActions(list[Action]):
    """Actions for a user for whom `global` is silent, on their way to `Evaluation.add_to_staging`.

    Attributes:
        stored: the actions to store for the user.
    """

    __slots__ = ("stored",)

    stored: list[Action]


def _staged(stored: StoredActions) -> StagedActions:
    # Because of `notify`, Synapse keeps the user and checks that they may see the event.
    staged = StagedActions(("notify",))
    staged.stored = stored
    return staged
