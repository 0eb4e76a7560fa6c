# SPDX-License-Identifier: AGPL-3.0-or-later
"""Device scopes compiled at once, for tests and the benchmark; the module does it step by step."""

import functools
from collections.abc import Iterable, Sequence

from synapse_msc3881.cascade.rulesets import DeviceRule
from synapse_msc3881.evaluation.compilation import Compilation
from synapse_msc3881.evaluation.compiling import Compile, Compiler, ReportBad
from synapse_msc3881.evaluation.matching import CompiledScope, UserScopes


def _ignore(_rule: DeviceRule, _error: BaseException) -> None:
    """A rule that does not parse is left out."""


def compile_scope(rules: Iterable[DeviceRule], compile_rules: Compile) -> CompiledScope | None:
    """Compile the enabled rules of one device scope at once.

    Args:
        rules: the scope's rules.
        compile_rules: Synapse's compiler.

    Returns:
        The compiled scope, or None where no rule is enabled: such a scope never matches.
    """
    rules = list(rules)
    scopes = compile_user(rules, [[rule.profile_tag for rule in rules]], compile_rules)
    return None if scopes is None else next(iter(scopes.scopes.values()))


def compile_user(
    rules: Iterable[DeviceRule],
    tag_lists: Iterable[Sequence[str]],
    compile_rules: Compile,
    report_bad: ReportBad = _ignore,
) -> UserScopes | None:
    """Compile the device scopes that a user's pushers list, at once; see `Compilation`.

    Returns:
        The compiled scopes, or None where there is none that could match.
    """
    compilation = Compilation(_compiler_of(compile_rules), rules, tag_lists, report_bad)
    for _ in compilation.steps():
        pass
    return compilation.so_far()


_compiler_of = functools.lru_cache(maxsize=8)(Compiler)
