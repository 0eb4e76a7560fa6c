# SPDX-License-Identifier: AGPL-3.0-or-later
"""Event time: the highest-priority matching rule in each scope that a user's pushers list.

Synapse evaluates each event for each local user before it persists it (specification 4). For users
with device scopes, `Evaluation` finds the compiled scopes when Synapse reads the rules; the
evaluator that Synapse makes for the event then runs them too; and what came out goes into the
user's row of push actions, in the same statement (see `outcomes`).

Nothing here may fail an event: whatever goes wrong for a user is reported, and for this event that
user's pushers use the `global` rules. For a user whose rules take too much of the server's time,
only rules with patterns do not match (see `spending`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import ContextVar
from typing import Any

import attr

from synapse_msc3881.cascade.outcomes import FAILED, Suppressed, with_outcomes
from synapse_msc3881.cascade.profile_tags import GLOBAL, Action, Match
from synapse_msc3881.evaluation.compiling import compile_always
from synapse_msc3881.evaluation.device_scopes import DeviceScopes
from synapse_msc3881.evaluation.held_scopes import Failed
from synapse_msc3881.evaluation.matching import (
    CompiledRules,
    EventFacts,
    Run,
    UserScopes,
    mark_of,
)
from synapse_msc3881.evaluation.prefilter import searchable
from synapse_msc3881.evaluation.spending import (
    EventShare,
    MeteredRun,
    Spending,
    TooCostlyError,
)
from synapse_msc3881.evaluation.suppression import (
    Memo,
    Suppression,
    rings_below_overrides,
    suppress,
)
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.metrics import Metrics
from synapse_msc3881.seams import RuleCompiler


@attr.s(auto_attribs=True, slots=True, eq=False)
class EventScopes:
    """The device scopes of all users whom the event at hand concerns.

    Attributes:
        by_user: them.
        evaluation: who evaluates them.
        evaluated: how many were, so far.
        share: what their patterns may still take for nothing.
    """

    by_user: Mapping[str, UserScopes | Failed]
    evaluation: Evaluation
    evaluated: int = 0
    share: EventShare = attr.Factory(EventShare)


# Synapse reads the rules, makes the evaluator and stores the actions one after the other in one
# coroutine, so what the first step puts here the others find. None where no user has any.
_event_scopes: ContextVar[EventScopes | None] = ContextVar("msc3837_event_scopes", default=None)


class StagedActions(list[Action]):
    """Actions that Synapse handles as any, on their way to `Evaluation.add_to_staging`.

    They hold `notify`, so that Synapse keeps the user and checks that they may see the event.
    """

    __slots__ = ("stored",)

    def __init__(self, stored: list[Action]) -> None:
        """
        Args:
            stored: the actions to store for the user.
        """
        self.append("notify")
        self.stored = stored


class ScopedEvaluator:
    """Synapse's evaluator for one event, which also evaluates device scopes."""

    def __init__(self, native: Any, flattened_keys: Mapping[str, Any], scopes: EventScopes) -> None:
        """
        Args:
            native: Synapse's evaluator.
            flattened_keys: the event, as the native evaluator got it.
            scopes: the users' device scopes.
        """
        self._native = native
        self.run_native = native.run
        self.event_scopes = scopes
        self._flattened_keys = flattened_keys
        self._by_user = scopes.by_user
        self._cascade = scopes.evaluation.cascade
        #: What matching needs of the event, once it was needed.
        self.facts: EventFacts | None = None
        #: What `suppression` has found out of the event.
        self.default_rules: Memo = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def run(self, rules: Any, user_id: str, *user: Any) -> Collection[Action]:
        """Synapse's `run`: the actions of the first matching rule for one user.

        Args:
            rules: the user's `global` rules.
            user_id: the user.
            user: what else Synapse passes on: the display name, and more in newer versions.
        """
        actions: Collection[Action] = self.run_native(rules, user_id, *user)
        scopes = self._by_user.get(user_id)
        if scopes is None:
            return actions
        return self._cascade(self, rules, scopes, actions, (user_id, *user))

    def find_facts(self, always: CompiledRules) -> EventFacts:
        """Find out `facts`.

        Args:
            always: from `compile_always`.
        """
        matches = mark_of(self.run_native(always, None, None)) is not None
        by_id = self._flattened_keys if matches else {}
        self.facts = EventFacts(
            room_id=by_id.get("room_id"),
            sender=by_id.get("sender"),
            text=searchable(self._flattened_keys),
            # Where the rule above does not match, a group goes on to the server-default rules.
            is_costly=not matches,
        )
        return self.facts


def match_scopes(scopes: UserScopes, run: Run, event: EventFacts) -> dict[str, Match]:
    """The highest-priority match of each device scope that has one."""
    matches = {}
    for tag, scope in scopes.scopes.items():
        match = scope.match(run, event)
        if match is not None:
            matches[tag] = match
    return matches


def wrap_evaluator(native: Any, flattened_keys: Mapping[str, Any]) -> Any:
    """Choose the evaluator for an event: Synapse's own, unless a user of ours is concerned."""
    scopes = _event_scopes.get()
    return native if scopes is None else ScopedEvaluator(native, flattened_keys, scopes)


class Evaluation:
    """The module's part in evaluating events, for one homeserver."""

    def __init__(
        self,
        scopes: DeviceScopes,
        compiler: RuleCompiler,
        spending: Spending,
        failures: Failures,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._scopes = scopes
        self._compiler = compiler
        self._spending = spending
        self._failures = failures
        self._always = compile_always(compiler.compile)
        self._suppression = Suppression(compiler)

    async def bulk_get_push_rules(
        self,
        native: Callable[[Collection[str]], Awaitable[Mapping[str, Any]]],
        user_ids: Collection[str],
    ) -> Mapping[str, Any]:
        """Wrap the read of the rules of all users whom an event may concern."""
        rules = await native(user_ids)
        users = self._scopes.users_among(user_ids)
        scopes = await self._scopes.for_users(users, rules) if users else None
        _event_scopes.set(EventScopes(scopes, self) if scopes else None)
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
        event_scopes = _event_scopes.get()
        if event_scopes is not None:
            # Counted once for an event: for each user it would take time that shows.
            self._metrics.evaluated(event_scopes.evaluated)
            event_scopes.evaluated = 0
            user_id_actions = {
                user_id: actions.stored if isinstance(actions, StagedActions) else actions
                for user_id, actions in user_id_actions.items()
            }
        await native(event_id, user_id_actions, *args, **kwargs)

    def cascade(
        self,
        evaluator: ScopedEvaluator,
        rules: CompiledRules,
        scopes: UserScopes | Failed,
        actions: Collection[Action],
        user: tuple[Any, ...],
    ) -> Collection[Action]:
        """Evaluate one user's device scopes.

        Args:
            evaluator: the event's evaluator.
            rules: the user's `global` rules.
            scopes: the user's device scopes.
            actions: what `global` says.
            user: what the evaluator's `run` needs of the user, the user id first.

        Returns:
            What to hand to Synapse: the actions of `global` where no device scope matters.
        """
        if isinstance(scopes, Failed):
            return self._failed(actions)
        run = None
        try:
            event = evaluator.facts or evaluator.find_facts(self._always)
            if not scopes.are_many and not scopes.could_match(event):
                return actions
            evaluator.event_scopes.evaluated += len(scopes.scopes)
            run = MeteredRun(
                evaluator.run_native, user, self._spending, evaluator.event_scopes.share
            )
            return self._cascade(evaluator, event, rules, scopes, actions, run, user)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001
            # A panic in Rust is no Exception, and must not fail the event either.
            self._failures.report(Fallback.EVALUATE, user[0], error)
            return self._failed(actions)
        finally:
            if run is not None:
                run.settle()
                if run.skipped:
                    self._failures.report(Fallback.COST, user[0], TooCostlyError())

    def _cascade(
        self,
        evaluator: ScopedEvaluator,
        event: EventFacts,
        rules: CompiledRules,
        scopes: UserScopes,
        actions: Collection[Action],
        run: MeteredRun,
        user: tuple[Any, ...],
    ) -> Collection[Action]:
        if scopes.are_many:
            run.look_at(sum(len(scope.groups) for scope in scopes.scopes.values()))
        matches = match_scopes(scopes, run, event)
        if not matches:
            return actions
        outcomes: dict[str, Match | Suppressed] = {**matches}
        if rings_below_overrides(matches):
            default_rule = self._suppression.silencing_rule(
                evaluator.run_native, evaluator.default_rules, rules, user
            )
            if default_rule is not None:
                outcomes = suppress(matches, default_rule)
        if "notify" not in actions:
            if not any(match.notifies for match in outcomes.values()):
                # Nobody will push this, whatever the walk: as without us, there is no row.
                return actions
            if scopes.needs_global_match and (
                # With other actions it did match.
                actions or scopes.matches_global(rules, run, event)
            ):
                outcomes[GLOBAL] = Match([])
        return StagedActions(with_outcomes(actions, outcomes))

    @staticmethod
    def _failed(actions: Collection[Action]) -> Collection[Action]:
        """Have the user's pushers use the `global` rules; where these are silent, with no row."""
        return StagedActions([FAILED, *actions]) if "notify" in actions else actions
