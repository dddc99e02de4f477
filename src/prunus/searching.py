"""Search for a plan within a budget by evaluating small networks: evolution, or a black box through Optuna.

What is searched is one number for each group, its *emphasis*: the group's curve is multiplied by ``exp`` of it before
the one solver shares out the budget. So every candidate meets the budget and uses it up, whatever the search does, and
the emphasis of zero is the solver's own plan, which is always tried first.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunus.budget import Asked, Points, Request, counts_within, read
from prunus.errors import InputError, NothingToPrune, suggest
from prunus.importance import name_of, resolve, score
from prunus.limits import Least, Limits, Multiple
from prunus.plan import Plan
from prunus.planning import holding, make_plan
from prunus.selection import Scores, choose_indices, open_groups
from prunus.sensitivity.journal import Journal, identity_of
from prunus.trace import Graph, trace

METHODS = ("evolution", "optuna")
_PARENTS, _SPREAD, _BOUND = 6, 0.5, 3.0
_TRIES = 20

Emphasis = Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One candidate: its number, the emphasis by group, and its score; None where a pruner ended it early."""

    number: int
    emphasis: Emphasis
    score: float | None


@dataclass(frozen=True)
class Search:
    """The best plan, its score, and every trial in the order of their numbers."""

    plan: Plan
    score: float
    trials: tuple[Trial, ...]


def search(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any] | None = None,
    *,
    evaluate: Callable[..., float],
    budget: Asked,
    trials: int,
    method: str = "evolution",
    importance: Any = "l2",
    curves: Points | None = None,
    keep: Sequence[str] = (),
    min_keep: Least = 1,
    round_to: Multiple | None = None,
    seed: int = 0,
    storage: str | os.PathLike[str] | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Search:
    """Evaluate ``trials`` small networks within ``budget`` and return the plan of the best.

    Args:
        evaluate: ``evaluate(network)`` returns a number, higher is better, on data that is not the test set. With
            Optuna it may be ``evaluate(network, report)``: ``report(step, value)`` lets the pruner end a bad trial.
        budget: as in :func:`prunus.plan`, without latency.
        trials: how many in all, those in ``storage`` included.
        method: ``"evolution"`` keeps the best six and mutates mixtures of two of them; ``"optuna"`` is Optuna's TPE
            with its median pruner.
        importance, curves, keep, min_keep, round_to: as in :func:`prunus.plan`.
        seed: of the search; the same seed, model and evaluation give the same trials, in one process.
        storage: a file to go on from after any end: with Optuna a SQLite database, which several processes may share at
            the same time; with evolution a journal.
        on_trial: called after each trial.

    Raises:
        InputError: an argument is wrong, or Optuna isn't installed.
        PlanError: the budget can't be met.
    """
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}.{suggest(str(method), METHODS)} Known: {', '.join(METHODS)}.")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials must be a whole number from 1, not {trials!r}.")
    graph = trace(model, args, kwargs)
    request = Request(
        read(budget), "global", keep, Limits(min_keep, None, round_to), curves, resolve(importance).additive
    )
    space = _Space(graph, score(graph, importance), request, dict(budget))
    identity = identity_of(model, f"{name_of(importance)} {sorted(budget.items())} {seed}")
    run = _evolve if method == "evolution" else _optuna
    done = []
    for trial in run(space, evaluate, trials, seed, storage, identity):
        done.append(trial)
        if on_trial is not None:
            on_trial(trial)
    best = max((trial for trial in done if trial.score is not None), key=lambda trial: trial.score or 0.0)
    plan = space.plan(best.emphasis)
    told = {"search": {"method": method, "trials": len(done), "score": best.score}}
    return Search(replace(plan, how={**plan.how, **told}), float(best.score or 0.0), tuple(done))


class _Space:
    """From an emphasis to a plan."""

    def __init__(self, graph: Graph, scores: Scores, request: Request, budget: Mapping[str, Any]) -> None:
        self.graph, self.scores, self.request, self.budget = graph, scores, request, budget
        self.names = [g.name for g in open_groups(graph, scores, request.keep) if g.size > 1]

    def plan(self, emphasis: Emphasis) -> Plan:
        """The solver's plan under it."""
        while True:
            counts, told = counts_within(self.graph, self.scores, replace(self.request, emphasis=emphasis))
            if not counts:
                raise NothingToPrune(f"the budget {self.budget!r} removes nothing: ask for less.")
            plan = make_plan(self.graph, choose_indices(self.scores, counts), {"budget": self.budget, **told})
            if holding(self.graph, plan, counts) is not None:
                return plan

    def small(self, emphasis: Emphasis) -> nn.Module:
        """The small network under it."""
        return self.plan(emphasis).apply(self.graph.model)


def _evolve(
    space: _Space, evaluate: Callable[..., float], trials: int, seed: int, storage: Any, identity: str
) -> Iterator[Trial]:
    """(6 + 1) evolution: a child mixes two of the best six, and most of its numbers are moved a little."""
    journal = Journal(storage, identity)
    rng = np.random.default_rng(seed)
    pool: list[tuple[float, NDArray[np.float64]]] = []
    for number in range(trials):
        genes = _child(rng, pool, len(space.names), number)
        emphasis = dict(zip(space.names, genes.tolist(), strict=True))
        known = journal.known.get(("trial", number))
        value = known["score"] if known is not None else float(evaluate(space.small(emphasis)))
        if known is None:
            journal.add(("trial", number), {"score": value})
        pool = sorted([*pool, (value, genes)], key=lambda each: -each[0])[:_PARENTS]
        yield Trial(number, emphasis, value)


def _child(rng: np.random.Generator, pool: Sequence[Any], genes: int, number: int) -> NDArray[np.float64]:
    noise = rng.normal(0.0, _SPREAD, genes) * (rng.random(genes) < 0.7)
    mix, pick = rng.random(genes) < 0.5, rng.integers(0, max(len(pool), 1), 2)
    if number == 0:
        return np.zeros(genes)
    mother, father = pool[pick[0]][1], pool[pick[1]][1]
    result: NDArray[np.float64] = np.clip(np.where(mix, mother, father) + noise, -_BOUND, _BOUND)
    return result


def _study(optuna: Any, place: str | None, name: str, sampler: Any) -> Any:
    """The study of that name. Processes that begin at once both make the tables of a new file; the later one waits."""
    create = partial(optuna.create_study, study_name=name, direction="maximize", load_if_exists=True, sampler=sampler)
    if place is None:
        return create()
    from sqlalchemy.exc import DatabaseError

    for _ in range(_TRIES):
        try:
            return create(storage=place)
        except DatabaseError:
            time.sleep(0.2)
    return create(storage=place)


def _optuna(
    space: _Space, evaluate: Callable[..., float], trials: int, seed: int, storage: Any, identity: str
) -> Iterator[Trial]:
    try:
        import optuna
    except ImportError as error:
        raise InputError("Optuna isn't installed: pip install 'prunus[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = None if storage is None else f"sqlite:///{os.fspath(storage)}"
    sampler = optuna.samplers.TPESampler(seed=seed if place is None else None, multivariate=True)
    study = _study(optuna, place, identity, sampler)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict.fromkeys(space.names, 0.0), skip_if_exists=True)
    reports = len(inspect.signature(evaluate).parameters) > 1

    def objective(trial: Any) -> float:
        emphasis = {name: trial.suggest_float(name, -_BOUND, _BOUND) for name in space.names}

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        small = space.small(emphasis)
        return float(evaluate(small, report) if reports else evaluate(small))

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while len(study.get_trials(deepcopy=False, states=ended)) < trials:
        study.optimize(objective, n_trials=1)
    for each in study.get_trials(deepcopy=False, states=ended):
        whole = each.state == optuna.trial.TrialState.COMPLETE
        yield Trial(each.number, each.params, each.value if whole else None)
