"""How good every variant is: one score a run, variant, workload and question, with its interval.

Three kinds that never share an axis: fidelity (skill against full attention on a family of inputs),
recall (accuracy of reading stored pairs back, untrained) and tasks (test score of trained models).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from subquad.analyze.seeds import is_share, of_score
from subquad.analyze.summary import labels
from subquad.contract import Workload
from subquad.record import Deviation, Measurement, Recall, Run, Status, TaskScore, canonical_json

SKILL, RECALLED = "skill", "accuracy"
NOT_MEASURED = "not measured"


class Kind(StrEnum):
    """What a score is about."""

    FIDELITY = "fidelity"
    RECALL = "recall"
    TASK = "task"


@dataclass(frozen=True)
class Score:
    """One figure of quality with its 95 % interval.

    `what` is the family of inputs, the number of pairs or the task. `value` is None with a `reason`
    where there is none; a value may have a reason too (seeds that diverged). `low` and `high` are None
    where one draw or one seed does not determine them. `replicates` are draws of inputs or seeds.
    """

    kind: Kind
    what: str
    metric: str
    higher_is_better: bool
    run: str
    label: str
    variant: str
    params: str  # canonical JSON
    family: str
    computes: str
    hardware: str
    workload: Workload
    cell: str
    group: str  # of the cell: scores of one group and `what` stand beside each other
    status: Status
    value: float | None = None
    low: float | None = None
    high: float | None = None
    replicates: int = 0
    share: bool = False  # of right answers, in [0, 1]
    state_bytes: int | None = None  # recall: of one head, after as many positions as pairs
    reason: str = ""

    @property
    def determined(self) -> bool:
        return self.value is not None and self.low is not None and self.high is not None


def scores(runs: Iterable[Run]) -> list[Score]:
    """Every score of the runs, in the order of their measurements.

    A cell that ended early has one without a value for whatever others of its group were asked.
    """
    runs = list(runs)
    named = task_labels(runs)
    return [score for run in runs for score in _scores(run, named)]


def _scores(run: Run, named: Mapping[str, str]) -> list[Score]:
    """Those of one run, made once; `named` are the labels of tasks."""
    key = f"scores {canonical_json(dict(named))}"
    if key not in run.derived:
        run.derived[key] = found = []
        asked = _asked(run)
        for m, label in zip(run.measurements, labels(run), strict=True):
            if m.cell.is_task:
                found.append(_task(run, m, label, named[task_key(m)]))
                continue
            families, pairs = asked[m.cell.group]
            by_family = {d.inputs: d for d in m.deviations}
            found += [_fidelity(run, m, label, f, by_family.get(f)) for f in families]
            found += [_recall(run, m, label, *p) for p in pairs]
    made: list[Score] = run.derived[key]
    return made


def task_key(m: Measurement) -> str:
    """Identifies a task and its settings; the seed is not one of them."""
    return canonical_json({k: v for k, v in m.cell.inputs.items() if k != "seed"})


def task_labels(runs: Iterable[Run]) -> dict[str, str]:
    """A task's name, with the settings that tell its sets apart where the runs hold several."""
    by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
    for m in (m for run in runs for m in run.measurements if m.cell.is_task):
        settings: Mapping[str, Any] = {
            k: v for k, v in m.cell.inputs.items() if k not in ("task", "seed")
        }
        by_name.setdefault(str(m.cell.inputs["task"]), {})[task_key(m)] = settings
    found = {}
    for name, sets in by_name.items():
        fields = sorted({field for settings in sets.values() for field in settings})
        apart = [f for f in fields if len({canonical_json(s.get(f)) for s in sets.values()}) > 1]
        for key, settings in sets.items():
            told = ", ".join(f"{f}={settings.get(f)}" for f in apart)
            found[key] = f"{name}[{told}]" if told else name
    return found


def _asked(run: Run) -> dict[str, tuple[list[str], list[tuple[float, int]]]]:
    """Families of inputs, and numbers of pairs by correlation, that any cell of a group has."""
    families: dict[str, dict[str, None]] = {}
    pairs: dict[str, set[tuple[float, int]]] = {}
    for m in run.measurements:
        mine = families.setdefault(m.cell.group, {})
        mine.update(dict.fromkeys(d.inputs for d in m.deviations))
        stored = pairs.setdefault(m.cell.group, set())
        if m.recall:
            stored.update((m.recall.correlation, p.pairs) for p in m.recall.points)
    return {group: (list(mine), sorted(pairs[group])) for group, mine in families.items()}


def _score(
    run: Run, m: Measurement, label: str, kind: Kind, what: str, metric: str, **rest: Any
) -> Score:
    """A wrong kernel has no quality, as it has no speed."""
    wrong = m.status is Status.INCORRECT
    if wrong:
        rest |= {"value": None, "low": None, "high": None}
    if wrong or rest.get("value") is None:
        rest["reason"] = rest.get("reason") or m.reason or NOT_MEASURED
    return Score(
        kind=kind,
        what=what,
        metric=metric,
        higher_is_better=rest.pop("higher_is_better", True),
        run=run.name,
        label=label,
        variant=m.cell.variant,
        params=m.cell.params_json,
        family=m.family,
        computes=m.computes,
        hardware=str(m.cell.hardware.get("name", "")),
        workload=m.cell.workload,
        cell=m.cell.id,
        group=m.cell.group,
        status=m.status,
        **rest,
    )


def _fidelity(run: Run, m: Measurement, label: str, family: str, d: Deviation | None) -> Score:
    if d is None:
        return _score(run, m, label, Kind.FIDELITY, family, SKILL)
    return _score(
        run, m, label, Kind.FIDELITY, family, SKILL,
        value=_finite(d.skill), low=_finite(d.skill_low), high=_finite(d.skill_high),
        replicates=d.draws, reason=d.reason,
    )  # fmt: skip


def _recall(run: Run, m: Measurement, label: str, correlation: float, pairs: int) -> Score:
    what = pairs_label(pairs, correlation)
    point = _point(m.recall, correlation, pairs)
    if point is None:
        return _score(run, m, label, Kind.RECALL, what, RECALLED)
    return _score(
        run, m, label, Kind.RECALL, what, RECALLED,
        value=point.accuracy, low=point.low, high=point.high, replicates=point.draws, share=True,
        state_bytes=point.state_bytes,
    )  # fmt: skip


def pairs_label(pairs: int, correlation: float) -> str:
    """`64 pairs`, and how alike the keys are where they are not independent."""
    return f"{pairs} pairs" + (f", keys correlated {correlation:g}" if correlation else "")


def _point(recall: Recall | None, correlation: float, pairs: int) -> Any:
    if recall is None or recall.correlation != correlation:
        return None
    return next((p for p in recall.points if p.pairs == pairs), None)


def _task(run: Run, m: Measurement, label: str, task: str) -> Score:
    score = m.score
    mean = of_score(score) if score else None
    if score is None or mean is None:
        metric = score.metric if score else ""
        better = score.higher_is_better if score else True
        return _score(run, m, label, Kind.TASK, task, metric, higher_is_better=better)
    low, high = mean.interval() or (None, None)
    return _score(
        run, m, label, Kind.TASK, task, score.metric, higher_is_better=score.higher_is_better,
        value=mean.value, low=low, high=high, replicates=len(mean.by_seed), share=is_share(score),
        reason=lost_seeds(score),
    )  # fmt: skip


def lost_seeds(score: TaskScore) -> str:
    """Seeds that have no test score at the chosen learning rate: the mean leaves them out."""
    kept = {t.seed for t in score.trainings if t.test is not None}
    chosen = chosen_lr(score)
    lost = [t for t in score.trainings if t.lr == chosen and t.test is None and t.seed not in kept]
    if not lost:
        return ""
    why = "; ".join(dict.fromkeys(t.reason for t in lost if t.reason))
    text = f"{len(lost)} of {len(lost) + len(kept)} seeds have no score and are left out of the mean"
    return f"{text}: {why}" if why else text


def chosen_lr(score: TaskScore) -> float | None:
    """The learning rate that was tested; None where every training diverged."""
    return next((t.lr for t in score.trainings if t.test is not None), None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
