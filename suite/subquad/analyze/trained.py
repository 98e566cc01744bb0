"""What trained tasks say of each variant: verdicts against shortcuts and full attention.

A task says something only where full attention solves it and no shortcut does. The rule: of the exact
variants that ran, the one with the best mean must reach the task's `solved`; else the task is INVALID,
and its figures are shown under that word. It is INVALID as well where an answer that needs no attention
reaches `solved`, be it a table or a model that averages over what it sees, or where full attention
diverged. Without an exact variant there is NO REFERENCE.

Claims (better than the best shortcut, one-sided; different from full attention, two-sided) are
corrected by Holm over the variants of one task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from subquad.analyze.quality import task_key, task_labels
from subquad.analyze.seeds import Range, SeedDifference, SeedMean, difference, of_score
from subquad.analyze.summary import labels
from subquad.analyze.verdicts import holm
from subquad.contract import Workload
from subquad.record import Measurement, Run, Status, TaskScore

LEVEL = 0.95
ROUNDING = 1e-12
BLIND = ("control_mean", "control_zero")  # look at no query: a model of one is a shortcut as well


class Verdict(StrEnum):
    """What is known of one variant on one task."""

    SOLVED = "SOLVED"  # its mean reaches `solved`
    ABOVE_SHORTCUT = "ABOVE SHORTCUT"  # surely better than the best shortcut, Holm over the task
    UNDECIDED = "UNDECIDED"  # better by its own interval alone, or one seed and no interval
    AT_SHORTCUT = "AT SHORTCUT"  # not to be told from the best shortcut, or worse
    DIVERGED = "DIVERGED"
    FAILED = "FAILED"  # no score: unsupported, out of memory, ...


class Validity(StrEnum):
    """Whether a task says anything."""

    VALID = "VALID"
    INVALID = "INVALID"
    NO_REFERENCE = "NO REFERENCE"


@dataclass(frozen=True)
class Learned:
    """One variant on one task. `p` and `p_against` are Holm-adjusted; None where not determined.

    `against` is the difference to the reference; None for the reference itself.
    """

    label: str
    measurement: Measurement
    mean: SeedMean | None
    interval: Range | None
    verdict: Verdict
    p: float | None = None
    against: SeedDifference | None = None
    p_against: float | None = None

    @property
    def differs(self) -> bool:
        """Whether it surely differs from full attention."""
        return self.p_against is not None and self.p_against <= 1 - LEVEL


@dataclass(frozen=True)
class TaskTable:
    """One task of one run on one hardware, and everyone who tried it.

    `metric` is empty and `solved` None where no training ended well. `best_shortcut` is its name.
    """

    run: str
    task: str
    hardware: str
    workload: Workload
    metric: str
    higher_is_better: bool
    solved: float | None
    shortcuts: Mapping[str, float]
    best_shortcut: str | None
    validity: Validity
    why: str
    reference: str | None
    rows: tuple[Learned, ...]
    data: str = ""  # sha256 of the data that examples were taken from

    def of(self, label: str) -> Learned | None:
        return next((r for r in self.rows if r.label == label), None)


def task_tables(runs: Iterable[Run]) -> list[TaskTable]:
    """Every task of every run, in the order of their measurements."""
    runs = list(runs)
    named = task_labels(runs)
    found = []
    for run in runs:
        groups: dict[str, list[tuple[str, Measurement]]] = {}
        for m, label in zip(run.measurements, labels(run), strict=True):
            if m.cell.is_task:
                groups.setdefault(m.cell.group, []).append((label, m))
        found += [_table(run, named[task_key(g[0][1])], g) for g in groups.values()]
    return found


def reaches(value: float, solved: float, higher_is_better: bool) -> bool:
    """Whether a score is at least as good as asked; the mean of three 0.99 is a rounding below it."""
    slack = ROUNDING * max(1.0, abs(solved))
    return value >= solved - slack if higher_is_better else value <= solved + slack


def _table(run: Run, task: str, tried: Sequence[tuple[str, Measurement]]) -> TaskTable:
    known = next((m.score for _, m in tried if m.score), None)
    up = known.higher_is_better if known else True
    shortcuts = _shortcuts([m.score for _, m in tried if m.score], up)
    best = _best(shortcuts, up)
    means = {label: _mean(m) for label, m in tried}
    reference = _reference(tried, means, up)
    validity, why = _validity(tried, known, reference, means, shortcuts, best)
    rows = _judged(tried, means, known, reference, None if best is None else shortcuts[best])
    first = tried[0][1].cell
    return TaskTable(
        run=run.name,
        task=task,
        hardware=str(first.hardware.get("name", "")),
        workload=first.workload,
        metric=known.metric if known else "",
        higher_is_better=up,
        solved=known.solved if known else None,
        shortcuts=shortcuts,
        best_shortcut=best,
        validity=validity,
        why=why,
        reference=reference,
        rows=tuple(rows),
        data=known.data if known else "",
    )


def _shortcuts(found: Sequence[TaskScore], up: bool) -> dict[str, float]:
    """Each shortcut's score, the best of it where rows have several."""
    merged: dict[str, float] = {}
    for name, value in ((n, v) for score in found for n, v in score.shortcuts.items()):
        known = merged.get(name, value)
        merged[name] = max(known, value) if up else min(known, value)
    return merged


def _best(shortcuts: Mapping[str, float], up: bool) -> str | None:
    if not shortcuts:
        return None
    return max(shortcuts, key=lambda name: shortcuts[name] if up else -shortcuts[name])


def _reference(
    tried: Sequence[tuple[str, Measurement]], means: Mapping[str, SeedMean | None], up: bool
) -> str | None:
    """The exact variant with the best mean."""
    exact = {label: means[label] for label, m in tried if m.computes == "exact"}
    values = {label: mean.value for label, mean in exact.items() if mean}
    if not values:
        return None
    return max(values, key=lambda label: values[label] if up else -values[label])


def _mean(m: Measurement) -> SeedMean | None:
    """None for a wrong kernel, which has no quality, as it has no speed."""
    return of_score(m.score) if m.score and m.status is not Status.INCORRECT else None


def _validity(
    tried: Sequence[tuple[str, Measurement]],
    known: TaskScore | None,
    reference: str | None,
    means: Mapping[str, SeedMean | None],
    shortcuts: Mapping[str, float],
    best: str | None,
) -> tuple[Validity, str]:
    mean = means[reference] if reference is not None else None
    if known is None or mean is None:
        diverged = [n for n, m in tried if m.computes == "exact" and m.status is Status.DIVERGED]
        if diverged:
            return Validity.INVALID, f"full attention ({', '.join(diverged)}) diverged"
        ended = [f"{n}: {m.status.value}" for n, m in tried if m.computes == "exact"]
        why = "no exact attention has a score"
        return Validity.NO_REFERENCE, f"{why} ({'; '.join(ended)})" if ended else f"{why}: none ran"
    word = "reaches" if known.higher_is_better else "gets down to"
    if not reaches(mean.value, known.solved, known.higher_is_better):
        return Validity.INVALID, (
            f"full attention ({reference}) {word} {mean.value:.4g}, and must reach {known.solved:.4g}"
        )
    if best is not None and reaches(shortcuts[best], known.solved, known.higher_is_better):
        return Validity.INVALID, (
            f"the shortcut {best!r} alone {word} {shortcuts[best]:.4g}, solved is {known.solved:.4g}"
        )
    for label, m in tried:
        blind = means[label] if m.cell.variant in BLIND else None
        if blind and reaches(blind.value, known.solved, known.higher_is_better):
            return Validity.INVALID, (
                f"{label}, which looks at no query, {word} {blind.value:.4g}, solved is "
                f"{known.solved:.4g}"
            )
    return Validity.VALID, f"full attention ({reference}) {word} {mean.value:.4g}"


def _judged(
    tried: Sequence[tuple[str, Measurement]],
    means: Mapping[str, SeedMean | None],
    known: TaskScore | None,
    reference: str | None,
    shortcut: float | None,
) -> list[Learned]:
    up = known.higher_is_better if known else True
    above = [_p_above(means[label], shortcut, up) for label, _ in tried]
    theirs = means[reference] if reference is not None else None
    against = [
        None if mean is None or theirs is None or label == reference else difference(mean, theirs)
        for label, mean in ((label, means[label]) for label, _ in tried)
    ]
    better, different = holm(above), holm([d.p if d else None for d in against])
    rows = []
    for i, (label, m) in enumerate(tried):
        mean = means[label]
        verdict = _verdict(m, mean, known, shortcut, above[i], better[i])
        interval = mean.interval(LEVEL) if mean else None
        rows.append(Learned(label, m, mean, interval, verdict, better[i], against[i], different[i]))
    return rows


def _p_above(mean: SeedMean | None, shortcut: float | None, up: bool) -> float | None:
    if mean is None or shortcut is None:
        return None
    if up:
        return mean.p_above(shortcut)
    return SeedMean({s: -v for s, v in mean.by_seed.items()}).p_above(-shortcut)


def _verdict(
    m: Measurement,
    mean: SeedMean | None,
    known: TaskScore | None,
    shortcut: float | None,
    own: float | None,
    adjusted: float | None,
) -> Verdict:
    if m.status is Status.DIVERGED:
        return Verdict.DIVERGED
    if mean is None or known is None:
        return Verdict.FAILED
    if reaches(mean.value, known.solved, known.higher_is_better):
        return Verdict.SOLVED
    if adjusted is not None and adjusted <= 1 - LEVEL:
        return Verdict.ABOVE_SHORTCUT
    if shortcut is None or own is None:
        ahead = shortcut is None or (mean.value > shortcut) is known.higher_is_better
        return Verdict.UNDECIDED if ahead else Verdict.AT_SHORTCUT
    return Verdict.UNDECIDED if own <= (1 - LEVEL) / 2 else Verdict.AT_SHORTCUT
