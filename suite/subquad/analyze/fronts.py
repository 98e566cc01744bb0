"""Which front a run has: a quality joined with a cost, per workload.

A front is of one workload's cost (time, peak memory, state of a decoder) and one quality (a family of
inputs, a number of stored pairs, a trained task); nothing adds two qualities up. Costs come from the
timed rows of a workload. Fidelity comes from the same cells where two of them have it, else from the
workload of the same masking that has most of it, at its largest seq_len; recall and tasks have cells of
their own. A variant is joined by its name and parameters, over all runs given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import pvariance
from typing import Any

import numpy as np

from subquad.analyze.intervals import median_by_process
from subquad.analyze.pareto import Placed, Point, front
from subquad.analyze.quality import SKILL, Kind, Score, scores
from subquad.analyze.slices import AXES, Slice, is_fit, slices
from subquad.analyze.summary import Row
from subquad.analyze.summary import rows as rows_of
from subquad.analyze.trained import TaskTable, Validity, task_tables
from subquad.record import Measurement, Run, Timing

MOST_WORKLOADS = 3
EQUAL = 0.005  # of a skill or share: what two decimals do not show is no better
Key = tuple[str, str]  # variant, parameters
Error = tuple[float, float]  # standard error of log time, degrees of freedom


class Cost(StrEnum):
    """What quality is held against."""

    TIME = "time"
    PEAK = "peak memory"
    STATE = "decode state"


@dataclass(frozen=True)
class Costed:
    """A timed row with what is not in it."""

    row: Row
    state_bytes: int | None
    error: Error | None

    @property
    def key(self) -> Key:
        return self.row["variant"], self.row["params"]


@dataclass(frozen=True)
class Front:
    """One quality against one cost of one workload. `axes` and `seq_len` are the workload's.

    `source` says where the quality is from, in words; `missing` are labels that have the cost and no
    such quality.
    """

    axes: Mapping[str, Any]
    seq_len: int
    cost: Cost
    kind: Kind
    what: str
    metric: str
    higher_is_better: bool
    source: str
    placed: tuple[Placed, ...]
    missing: tuple[str, ...]

    @property
    def members(self) -> tuple[Placed, ...]:
        """Those on the front by their estimates, the cheapest first."""
        found = [p for p in self.placed if p.on_front]
        return tuple(sorted(found, key=lambda p: (p.point.cost, p.point.label)))


@dataclass(frozen=True)
class _Quality:
    """Scores of one question that stand beside each other, by variant."""

    kind: Kind
    what: str
    source: str
    by_key: Mapping[Key, Score]

    @property
    def first(self) -> Score:
        return next(iter(self.by_key.values()))


def fronts(runs: Iterable[Run]) -> list[Front]:
    """Fronts of at most three workloads, those with most variants, one for each phase and masking.

    Of each, the seq_len at which most variants have a time, the largest of these. A front needs two
    variants that compete. An INVALID task has none.
    """
    runs = list(runs)
    found = scores(runs)
    tables = task_tables(runs)
    workloads = _workloads(runs)
    maskings = {bool(part.axes["causal"]) for part, _ in workloads}
    made = []
    for part, costed in workloads:
        n = int(costed[0].row["seq_len"])
        causal = bool(part.axes["causal"])
        cells = {c.row["cell"] for c in costed}
        for quality in _qualities(found, tables, cells, causal, maskings):
            for cost in Cost:
                one = _front(part, n, costed, cost, quality)
                if one is not None:
                    made.append(one)
    return made


def invalid_tasks(runs: Iterable[Run]) -> list[TaskTable]:
    """Tasks that have no front because they say nothing."""
    return [t for t in task_tables(runs) if t.validity is Validity.INVALID]


def _workloads(runs: Sequence[Run]) -> list[tuple[Slice, list[Costed]]]:
    """A workload for each phase and masking: most timed variants, most lengths, the longest length."""
    extra: dict[tuple[str, str], Measurement] = {}
    rows: list[Row] = []
    for run in runs:
        for row, m in zip(rows_of(run), run.measurements, strict=True):
            if is_fit(row) and not m.cell.is_task:
                rows.append(row)
                extra[row["run"], row["cell"]] = m
    best: dict[tuple[Any, ...], tuple[int, int, int, int, Slice, list[Row]]] = {}
    for order, part in enumerate(slices(rows)):
        counts = Counter(int(r["seq_len"]) for r in part.rows if r["family"] != "control")
        if not counts:
            continue
        n = max(counts, key=lambda n: (counts[n], n))
        here = (counts[n], len(counts), n, -order, part, part.at(n))
        which = (part.axes["phase"], part.axes["causal"])
        if counts[n] >= 2 and (which not in best or here[:4] > best[which][:4]):
            best[which] = here
    chosen = sorted(best.values(), key=lambda b: b[:4], reverse=True)[:MOST_WORKLOADS]
    made = []
    for *_, part, timed in chosen:
        measured = [extra[r["run"], r["cell"]] for r in timed]
        errors = log_errors([m.timing for m in measured])
        made.append(
            (part, [Costed(r, _state(m), e) for r, m, e in zip(timed, measured, errors, strict=True)])
        )
    return made


def _state(m: Measurement) -> int | None:
    """What decoding keeps after seq_len positions, as declared; only causal attention decodes."""
    return m.cost.state_bytes if m.cost and m.cell.workload.causal else None


def log_errors(timings: Sequence[Timing | None]) -> list[Error | None]:
    """Standard error of each log time, without what the entries of a session have in common.

    A session's entries share its processes, and a slow process slows all. So each process's effect, the
    mean over entries of what it deviates by, is taken out first; an entry is a part of that mean, which
    the factor n / (n - 1) makes up for. None for fewer than two processes.
    """
    found: list[Error | None] = [None] * len(timings)
    sessions: dict[str, list[int]] = {}
    for i, t in enumerate(timings):
        if t is not None:
            sessions.setdefault(t.session, []).append(i)
    for members in sessions.values():
        logs = {i: _log_medians(timings[i]) for i in members}
        residual = {
            i: {p: v - sum(own.values()) / len(own) for p, v in own.items()}
            for i, own in logs.items()
            if own
        }
        for i, own in residual.items():
            if len(own) < 2:
                continue
            if len(residual) == 1:
                left, inflate = list(own.values()), 1.0
            else:
                left = [v - _common(residual, p) for p, v in own.items()]
                inflate = math.sqrt(len(residual) / (len(residual) - 1))
            spread = float(np.std(left, ddof=1)) * inflate
            found[i] = (spread / math.sqrt(len(left)), float(len(left) - 1))
    return found


def _log_medians(timing: Timing | None) -> dict[int, float]:
    return {p: math.log(s) for p, s in median_by_process(timing).items()} if timing else {}


def _common(residual: Mapping[int, Mapping[int, float]], process: int) -> float:
    here = [own[process] for own in residual.values() if process in own]
    return sum(here) / len(here)


def _qualities(
    found: Sequence[Score],
    tables: Sequence[TaskTable],
    cells: set[str],
    causal: bool,
    maskings: set[bool],
) -> list[_Quality]:
    valued = [s for s in found if s.value is not None]
    families = sorted({s.what for s in valued if s.kind is Kind.FIDELITY})
    made = [_fidelity(valued, family, cells, causal) for family in families]
    made.append(_recall(valued, causal))
    for table in tables:
        other = table.workload.causal is not causal
        if table.validity is Validity.INVALID or (other and table.workload.causal in maskings):
            continue
        mine = {
            (s.variant, s.params): s
            for s in valued
            if s.kind is Kind.TASK and s.run == table.run and s.what == table.task
        }
        note = "" if table.validity is Validity.VALID else f", {table.validity} of full attention"
        source = f"task {table.task}, {_masking(table.workload.causal)}{note}"
        made.append(_Quality(Kind.TASK, table.task, source, mine) if mine else None)
    return [q for q in made if q is not None]


def _fidelity(valued: Sequence[Score], family: str, cells: set[str], causal: bool) -> _Quality | None:
    """The workload's own skill where two variants have it, else that of another workload."""
    mine = [s for s in valued if s.kind is Kind.FIDELITY and s.what == family]
    here = {(s.variant, s.params): s for s in mine if s.cell in cells}
    if len(here) >= 2:
        return _Quality(Kind.FIDELITY, family, "skill at the same workload", here)
    groups = _by_group([s for s in mine if s.workload.causal is causal])
    if not groups:
        return None
    best = max(groups, key=lambda g: (len(g), g[0].workload.seq_len))
    w = best[0].workload
    shape = f"{w.heads} heads, head_dim {w.head_dim}"
    source = f"skill at seq_len {w.seq_len}, {_masking(w.causal)}, {shape}"
    return _Quality(Kind.FIDELITY, family, source, {(s.variant, s.params): s for s in best})


def _recall(valued: Sequence[Score], causal: bool) -> _Quality | None:
    """Accuracy at the number of pairs that tells variants apart best: the largest variance."""
    mine = [s for s in valued if s.kind is Kind.RECALL]
    groups = _by_group([s for s in mine if s.workload.causal is causal] or mine)
    if not groups:
        return None
    largest = max(len(g) for g in groups)

    def apart(group: Sequence[Score]) -> float:
        return pvariance([s.value for s in group if s.value is not None])

    best = max((g for g in groups if len(g) == largest), key=apart)
    source = f"recall of {best[0].what}, {_masking(best[0].workload.causal)}, untrained"
    by_key = {(s.variant, s.params): s for s in best}
    return _Quality(Kind.RECALL, best[0].what, source, by_key)


def _by_group(found: Sequence[Score]) -> list[list[Score]]:
    """Scores of one question that were measured beside each other; two at least."""
    groups: dict[tuple[str, ...], list[Score]] = {}
    for s in found:
        groups.setdefault((s.run, s.group, s.what), []).append(s)
    return [g for g in groups.values() if len(g) >= 2]


def _masking(causal: bool) -> str:
    return "causal" if causal else "not causal"


def _front(
    part: Slice, n: int, costed: Sequence[Costed], cost: Cost, quality: _Quality
) -> Front | None:
    points, missing = [], []
    for c in costed:
        score = quality.by_key.get(c.key)
        figures = _cost(c, cost, quality)
        if figures is None:
            continue
        if score is None or score.value is None:
            missing.append(c.row["label"])
            continue
        value, low, high, error, df = figures
        points.append(
            Point(
                label=c.row["label"],
                family=c.row["family"] or "",
                cost=value,
                quality=score.value,
                cost_low=low,
                cost_high=high,
                cost_error=error,
                cost_df=df,
                quality_low=score.low,
                quality_high=score.high,
                competes=c.row["family"] != "control",
            )
        )
    if sum(p.competes for p in points) < 2 or (cost is not Cost.TIME and _all_alike(points)):
        return None
    first = quality.first
    placed = front(
        points,
        higher_is_better=first.higher_is_better,
        margin=EQUAL if first.share or first.metric == SKILL else 0.0,
        bounds=(0.0, 1.0) if first.share else None,
    )
    axes = {name: part.axes[name] for name in AXES}
    return Front(
        axes, n, cost, quality.kind, quality.what, first.metric, first.higher_is_better,
        quality.source, tuple(placed), tuple(missing),
    )  # fmt: skip


def _all_alike(points: Sequence[Point]) -> bool:
    return len({p.cost for p in points}) < 2


def _cost(
    c: Costed, cost: Cost, quality: _Quality
) -> tuple[float, float | None, float | None, float | None, float] | None:
    """Estimate, interval, error and degrees of freedom; None where there is no such cost.

    The state beside a recall is that of one head after as many positions as pairs, not the workload's.
    """
    if cost is Cost.TIME:
        row = c.row
        error, df = c.error or (None, math.inf)
        return float(row["time_s"]), row["time_low_s"], row["time_high_s"], error, df
    if cost is Cost.PEAK:
        value = c.row["peak_bytes"]
    elif quality.kind is Kind.RECALL:
        score = quality.by_key.get(c.key)
        value = score.state_bytes if score else None
    else:
        value = c.state_bytes
    return None if not value else (float(value), None, None, 0.0, math.inf)
