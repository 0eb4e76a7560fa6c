# SPDX-License-Identifier: AGPL-3.0-or-later
"""What one process knows about its users' device scopes, so that an event costs no SQL.

Each process holds the set of users whose pushers have profile tags, read once at startup, and
their compiled scopes in bounded memory (see `held_scopes`). A change to tags or rules, on any
process, arrives here as an invalidation: the user may have scopes now, and what is compiled is
stale.

The next event that concerns the user has them read and compiled. There is one such **load** of a
user at a time, and all events that arrive meanwhile wait for it. An event after another
invalidation waits for the next load, which begins when this one is done: so each event sees what
was written before it, and waits for two loads at most, however often the user writes.

Compiling is done in slices (see `slices`). For users who write much, little is compiled at a time:
what was written last, and the rest later. No event waits longer than half a second for a user with
thousands of rules, or two seconds for any other. Then it uses what there is: what is only looked
up, as muted rooms are, and what was compiled before.

A disabled pusher's tags count here like any other's. Its scopes are evaluated for nothing, but
switching a pusher changes nothing that a process holds, and so can leave nothing stale.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from synapse_msc3881.evaluation.compilation import Compilation, GlobalCompilation
from synapse_msc3881.evaluation.compile_debts import CompileDebts
from synapse_msc3881.evaluation.compiling import Compiler
from synapse_msc3881.evaluation.held_scopes import Failed, HeldScopes, Scopes
from synapse_msc3881.evaluation.matching import SilentGlobal, UserScopes
from synapse_msc3881.evaluation.running import CompiledRules
from synapse_msc3881.evaluation.slices import Slices
from synapse_msc3881.evaluation.spending import TooCostlyError
from synapse_msc3881.failures import Failures, Fallback
from synapse_msc3881.seams import Shared
from synapse_msc3881.storage.device_rules import DeviceRuleStore, StoredRules
from synapse_msc3881.storage.pusher_tags import PusherTagStore, UserTags

if TYPE_CHECKING:
    from synapse_msc3881.cascade.rulesets import DeviceRule
    from synapse_msc3881.evaluation.compilation import GlobalRules
    from synapse_msc3881.evaluation.slices import CallLater


# How many chunks a load compiles for a user over the bound: those written last.
_CHUNKS_IN_DEBT = 1

# How often an event waits to learn about `global`: the first answer may be about older rules.
_ATTEMPTS = 2

T = TypeVar("T")


class _Load(Generic[T]):
    """Something being prepared for a user, for which several events may wait."""

    __slots__ = ("_result", "_shared", "is_late", "next", "user_id")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        #: The load that follows this one, because something has changed meanwhile.
        self.next: _Load[T] | None = None
        #: Whether nobody waits for it any longer: they were given what there was.
        self.is_late = False
        self._result: list[T] = []
        self._shared: Shared[None] | None = None

    async def wait(self) -> T:
        """The result."""
        if not self._result:
            self._shared = self._shared or Shared()
            await self._shared.wait()
        return self._result[0]

    def answer(self, result: T) -> None:
        """Give the result to those who wait; those who come later get the last one given."""
        waited_for = not self._result
        self._result = [result]
        if waited_for and self._shared is not None:
            self._shared.set(None)


class DeviceScopes:
    """Finds users' compiled scopes: held, or read and compiled."""

    def __init__(
        self,
        held: HeldScopes,
        rules: DeviceRuleStore,
        tags: PusherTagStore,
        compiler: Compiler,
        global_rules: GlobalRules,
        slices: Slices,
        debts: CompileDebts,
        failures: Failures,
        call_later: CallLater,
    ) -> None:
        self._held = held
        self._rules = rules
        self._tags = tags
        self._compiler = compiler
        self._global_rules = global_rules
        self._slices = slices
        self._debts = debts
        self._failures = failures
        self._call_later = call_later
        self._loads: dict[str, _Load[Scopes]] = {}
        self._global_loads: dict[str, _Load[SilentGlobal]] = {}
        # Users whose rules were compiled only in part, because too many had been before.
        self._cut_short: set[str] = set()

    @property
    def users(self) -> Collection[str]:
        """The users whose pushers have profile tags, and perhaps some more."""
        return self._held.users

    def users_among(self, user_ids: Collection[str]) -> set[str]:
        """Those of the users whose pushers have profile tags, and perhaps some more."""
        users = self._held.users
        return users.intersection(user_ids) if users else users

    async def for_users(
        self, user_ids: Collection[str], global_rules: Mapping[str, CompiledRules]
    ) -> Mapping[str, UserScopes | Failed]:
        """The compiled scopes of those users concerned by an event who have any.

        Never raises.

        Args:
            user_ids: the users.
            global_rules: the compiled `global` rules of each.
        """
        if self._cut_short:
            self._go_on_with(self._cut_short.intersection(user_ids))
        held = self._held
        compiled = held.compiled
        missing = [each for each in user_ids if each not in compiled]
        found = {each: scopes for each in user_ids if (scopes := compiled.get(each)) is not None}
        if missing:
            loaded = await self._load(missing)
            found.update((each, scopes) for each, scopes in loaded if scopes is not None)
        held.use(found)
        needing_global = held.needing_global.intersection(found) if held.needing_global else ()
        if needing_global or missing:
            await self._know_global(
                [
                    (user_id, scopes, global_rules.get(user_id))
                    for user_id in {*needing_global, *missing}
                    if isinstance(scopes := found.get(user_id), UserScopes)
                    and scopes.needs_global_match
                ]
            )
        return found

    # --- Loads ---

    async def _load(self, user_ids: Collection[str]) -> list[tuple[str, Scopes]]:
        new: list[_Load[Scopes]] = []
        loads = [self._load_of(user_id, new) for user_id in user_ids]
        self._start(new)
        return [(load.user_id, await load.wait()) for load in loads]

    def _load_of(self, user_id: str, new: list[_Load[Scopes]]) -> _Load[Scopes]:
        load = self._loads.get(user_id)
        if load is None:
            load = self._loads[user_id] = _Load(user_id)
            new.append(load)
        elif not self._held.is_read_anew(user_id):
            load.next = load.next or _Load(user_id)
            return load if load.is_late else load.next
        return load

    def _start(self, loads: list[_Load[Scopes]]) -> None:
        if loads:
            for load in loads:
                self._held.start_reading(load.user_id)
            self._call_later(0, self._read, loads, desc="msc3881_load")

    async def _read(self, loads: list[_Load[Scopes]]) -> None:
        try:
            tags = await self._tags.of_users([load.user_id for load in loads])
            tagged = [user_id for user_id, of_user in tags.items() if of_user]
            rules = await self._rules.read(tagged) if tagged else {}
        except Exception as error:  # noqa: BLE001 - nothing of ours may fail an event
            for load in loads:
                self._failures.report(Fallback.LOAD, load.user_id, error)
                self._held.end_reading(load.user_id)
                self._end(load, self._instead(load.user_id))
            return
        for load in loads:
            if load.user_id in rules:
                try:
                    self._compile(load, rules.pop(load.user_id), tags[load.user_id])
                except Exception as error:  # noqa: BLE001 - as above
                    self._keep(load, self._failed(load.user_id, error))
            else:
                if self._held.end_reading(load.user_id):
                    self._held.users.discard(load.user_id)
                    self._held.drop(load.user_id)
                self._end(load, None)

    def _compile(self, load: _Load[Scopes], stored: StoredRules, tags: UserTags) -> None:
        in_debt = self._debts.is_over(load.user_id)
        compilation = Compilation(
            self._compiler,
            stored.rules,
            tags.lists,
            partial(self._report_bad, load.user_id),
            max_bytes=self._held.max_bytes_of_user,
            max_new_chunks=_CHUNKS_IN_DEBT if in_debt else sys.maxsize,
            own={
                device_id: settings
                for device_id, settings in stored.own.items()
                if tags.go_by(device_id)
            },
        )
        self._slices.do(
            compilation.first_steps(), done=partial(self._go_on_compiling, load, compilation)
        )

    def _go_on_compiling(
        self,
        load: _Load[Scopes],
        compilation: Compilation,
        spent: float,
        error: BaseException | None,
    ) -> None:
        if error is not None:
            self._compiled(load, compilation, spent, error)
            return
        self._debts.charge(load.user_id, spent)
        self._slices.do(
            compilation.further_steps(),
            done=partial(self._compiled, load, compilation),
            late=partial(self._late, load, compilation),
        )

    def _late(self, load: _Load[Scopes], compilation: Compilation) -> None:
        so_far = compilation.so_far()
        self._reuse_global(load.user_id, so_far)
        load.is_late = True
        load.answer(so_far)
        if load.next is not None:
            # The events behind the next load wait for this one as well.
            waiting, load.next = load.next, _Load(load.user_id)
            waiting.answer(so_far)

    def _compiled(
        self,
        load: _Load[Scopes],
        compilation: Compilation,
        spent: float,
        error: BaseException | None,
    ) -> None:
        self._debts.charge(load.user_id, spent)
        try:
            scopes = self._result(load.user_id, compilation, error)
        except Exception as bug:  # noqa: BLE001 - no event may wait for ever
            scopes = self._failed(load.user_id, bug)
        self._keep(load, scopes)

    def _result(
        self, user_id: str, compilation: Compilation, error: BaseException | None
    ) -> Scopes:
        if error is not None:
            return self._failed(user_id, error)
        if compilation.is_cut_short or compilation.is_too_large:
            self._failures.report(Fallback.COST, user_id, TooCostlyError())
        if compilation.is_cut_short:
            self._cut_short.add(user_id)
        return compilation.so_far()

    def _failed(self, user_id: str, error: BaseException) -> UserScopes | Failed:
        self._failures.report(Fallback.COMPILE, user_id, error)
        return self._instead(user_id)

    def _instead(self, user_id: str) -> UserScopes | Failed:
        """What was compiled before, if nothing newer can be: what was muted stays muted."""
        stale = self._held.stale(user_id)
        return Failed() if stale is None else stale

    def _keep(self, load: _Load[Scopes], scopes: Scopes) -> None:
        user_id, held = load.user_id, self._held
        self._reuse_global(user_id, scopes)
        if held.end_reading(user_id):
            held.keep(user_id, scopes)
        elif isinstance(scopes, UserScopes):
            held.keep_stale(user_id, scopes)
        self._end(load, scopes)

    def _reuse_global(self, user_id: str, scopes: Scopes) -> None:
        stale = self._held.stale(user_id)
        if stale is not None and isinstance(scopes, UserScopes) and scopes.needs_global_match:
            scopes.silent_global = stale.silent_global

    def _end(self, load: _Load[Scopes], scopes: Scopes) -> None:
        del self._loads[load.user_id]
        if load.next is not None:
            self._loads[load.user_id] = load.next
            self._start([load.next])
        load.answer(scopes)

    def _report_bad(self, user_id: str, rule: DeviceRule, error: BaseException) -> None:
        self._failures.report(Fallback.COMPILE_RULE, user_id, error, rule.where)

    def _go_on_with(self, user_ids: Collection[str]) -> None:
        for user_id in user_ids:
            if not self._debts.is_over(user_id):
                self._cut_short.discard(user_id)
                self._held.set_aside(user_id)

    # --- `global` ---

    async def _know_global(self, users: Sequence[tuple[str, UserScopes, CompiledRules]]) -> None:
        """Make sure it is known whether these users' `global` rules match silently.

        For users over the bound it is not prepared; then silence counts as a match.
        """
        over: set[str] = set()
        for _ in range(_ATTEMPTS):
            waited_for = []
            for user_id, scopes, rules in users:
                known = scopes.silent_global
                if user_id in over or (known is not None and known.of is rules):
                    continue
                load = self._global_loads.get(user_id)
                if load is None and self._debts.is_over(user_id):
                    over.add(user_id)
                    self._failures.report(Fallback.COST, user_id, TooCostlyError())
                    continue
                load = load or self._start_global(user_id, rules)
                waited_for.append((user_id, scopes, rules, load))
            for user_id, scopes, rules, load in waited_for:
                known = await load.wait()
                if known.of is rules:
                    self._keep_global(user_id, scopes, known)

    def _start_global(self, user_id: str, rules: CompiledRules) -> _Load[SilentGlobal]:
        load: _Load[SilentGlobal] = _Load(user_id)
        self._global_loads[user_id] = load
        compilation = GlobalCompilation(
            self._compiler, self._global_rules, rules, self._held.max_bytes_of_user
        )

        def done(spent: float, error: BaseException | None) -> None:
            self._debts.charge(user_id, spent)
            if error is not None:
                self._failures.report(Fallback.COMPILE_GLOBAL, user_id, error)
            del self._global_loads[user_id]
            known = compilation.so_far()
            held = self._held.compiled.get(user_id)
            if isinstance(held, UserScopes):
                self._keep_global(user_id, held, known)
            load.answer(known)

        self._slices.do(
            compilation.steps(), done=done, late=lambda: load.answer(compilation.so_far())
        )
        return load

    def _keep_global(self, user_id: str, scopes: UserScopes, known: SilentGlobal) -> None:
        if scopes.silent_global is not known:
            scopes.silent_global = known
            if self._held.compiled.get(user_id) is scopes:
                self._held.keep(user_id, scopes)
