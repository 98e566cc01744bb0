"""Recall of stored pairs: what every variant holds, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from subquad import units
from subquad.analyze.slices import Slice, describe, differing
from subquad.analyze.summary import labels
from subquad.record import Measurement, Recall, RecallPoint, Run, Status
from subquad.report.markdown import escape, table

ABSENT = "–"
SURE = 0.9  # a number of pairs is held where the interval of accuracy is above
TITLE = "Recall of stored pairs, without training"
MOST_COLUMNS = 5  # numbers of pairs in the table

READING = f"""\
A sequence holds so many pairs of a key and one of *codes* values; a query is one of its keys, and right
is the answer whose value is nearest to the output. Nothing is trained: parameters are drawn as training
would start, so variants that live by them (learned maps, recurrent layers) show what they are before
it. Temperature and gates are the best of a small grid, chosen on other draws. In brackets the 95 %
interval over draws. *Held* is the largest number of pairs up to which every interval lies above
{SURE:g}. *State* is what a decoder of one head keeps after the largest number of pairs."""


@dataclass(frozen=True)
class Curve:
    """The recall of one variant."""

    label: str
    family: str
    computes: str
    points: tuple[RecallPoint, ...]  # by pairs

    def at(self, pairs: int) -> RecallPoint | None:
        return next((p for p in self.points if p.pairs == pairs), None)

    @property
    def held(self) -> int | None:
        """The largest number of pairs that is surely answered, as are all fewer; None for none."""
        held = None
        for p in self.points:
            if p.low < SURE:
                break
            held = p.pairs
        return held

    @property
    def merit(self) -> tuple[int, float]:
        """What curves are sorted by: pairs held, then accuracy over all of them."""
        return self.held or 0, fmean(p.accuracy for p in self.points)

    @property
    def accuracies(self) -> tuple[tuple[int, float], ...]:
        return tuple((p.pairs, p.accuracy) for p in self.points)

    @property
    def state_bytes(self) -> int | None:
        """After the largest number of pairs."""
        return self.points[-1].state_bytes


@dataclass(frozen=True)
class Panel:
    """Curves of one kind of question, best first; `missing` are variants that gave none."""

    axes: Mapping[str, Any]
    codes: int
    pair_bytes: int  # of a key and its value
    curves: tuple[Curve, ...]
    missing: tuple[str, ...]

    @cached_property
    def pairs(self) -> list[int]:
        return sorted({p.pairs for c in self.curves for p in c.points})

    def shown_as(self, names: Iterable[str]) -> Slice:
        """What a facet needs to know: its axes and the names beside it."""
        return Slice(self.axes, tuple({"label": n, "seq_len": self.pairs[-1]} for n in names))


def panels(runs: Iterable[Run]) -> list[Panel]:
    """What stands beside each other: one run, masking, head_dim, dtype, codes and key correlation.

    Where several cells measured a variant, as at two lengths, the one with most points counts.
    """
    found = []
    for run in runs:
        named = list(zip(run.measurements, labels(run), strict=True))
        groups: dict[tuple[tuple[str, Any], ...], list[tuple[Measurement, str, Recall]]] = {}
        for m, label in named:
            if m.recall and m.status is not Status.INCORRECT:  # a wrong kernel has no quality either
                groups.setdefault((*_axes(run, m, m.recall),), []).append((m, label, m.recall))
        for key, group in groups.items():
            best: dict[str, Curve] = {}
            for m, label, recall in group:
                points = tuple(sorted(recall.points, key=lambda p: p.pairs))
                if len(points) > len(best[label].points if label in best else ()):
                    best[label] = Curve(label, m.family, m.computes, points)
            workloads = [m.cell.workload for m, _, _ in group]
            asked = dict.fromkeys(label for m, label in named if m.cell.workload in workloads)
            curves = sorted(best.values(), key=lambda c: _order(c, run.baseline))
            missing = tuple(label for label in asked if label not in best)
            axes = {k: v for k, v in key if k != "codes"}
            if curves:
                pair_bytes = 2 * workloads[0].head_dim * workloads[0].element_bytes
                found.append(Panel(axes, dict(key)["codes"], pair_bytes, tuple(curves), missing))
    return found


def _order(c: Curve, baseline: str) -> tuple[Any, ...]:
    """Best first; of those that hold as much, the baseline, whose name a reader knows."""
    held, accuracy = c.merit
    return (-held, -accuracy, c.label != baseline, c.label)


def _axes(run: Run, m: Measurement, recall: Recall) -> Iterator[tuple[str, Any]]:
    w = m.cell.workload
    yield from (("run", run.name), ("causal", w.causal), ("dtype", w.dtype), ("head_dim", w.head_dim))
    keys = f"{recall.correlation:g}-correlated" if recall.correlation else "independent"
    yield from (("inputs", f"{keys} key"), ("codes", recall.codes))


def recall_section(runs: Sequence[Run]) -> list[str]:
    """Blocks of the report: a table for each kind of question; none where recall was not measured."""
    found = panels(runs)
    if not found:
        return []
    names = {"causal", "dtype", "head_dim", "inputs", *differing([p.shown_as([]) for p in found])}
    blocks = [f"## {TITLE}", READING]
    for p in found:
        title = f"{describe(p.axes, names)}, {p.codes} codes"
        blocks += [f"**{escape(title)}**", recall_table(p)]
        if p.missing:
            blocks.append(f"No recall was measured of {', '.join(map(escape, p.missing))}.")
    return blocks


def recall_table(panel: Panel) -> str:
    """Variants by what they hold: accuracy at some numbers of pairs, pairs held, bytes of state."""
    step = math.ceil(len(panel.pairs) / MOST_COLUMNS)
    columns = panel.pairs[::-1][::step][::-1]
    heads = [f"{n} pairs" for n in columns]
    body = []
    for c in panel.curves:
        told = [_accuracy(c.at(n)) for n in columns]
        state = ABSENT if c.state_bytes is None else units.size(c.state_bytes)
        body.append([escape(c.label), escape(c.computes or ABSENT), _held(panel, c), *told, state])
    right = [*heads, "held", "state"]
    return table(["variant", "computes", "held", *heads, "state"], body, right=right)


def _accuracy(p: RecallPoint | None) -> str:
    return ABSENT if p is None else f"{p.accuracy:.2f} [{p.low:.2f}, {p.high:.2f}]"


def _held(panel: Panel, c: Curve) -> str:
    if c.held is None:
        return f"< {c.points[0].pairs}"
    return f"≥ {c.held}" if c.held == panel.pairs[-1] else str(c.held)
