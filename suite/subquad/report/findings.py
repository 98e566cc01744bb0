"""What a report is about: the rows of some runs, and what follows from them, worked out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subquad.analyze.crossover import check_reference
from subquad.analyze.growth import AXES, Scaling, scalings
from subquad.analyze.slices import Slice, Timings, is_fit, slices, timings
from subquad.analyze.standing import Standing
from subquad.analyze.summary import Row, deviation_families
from subquad.analyze.summary import rows as rows_of
from subquad.record import Run
from subquad.report.standings import standings

PHASES = ("forward", "forward_backward", "decode")
MOST_WORKLOADS = 12
"""That a report tells about; a reader compares no more."""


@dataclass(frozen=True)
class Findings:
    """Every row of the runs; and, of the workloads that a report has room for, what follows from them.

    `rows` are all, `timed` those of `parts`, the workloads that are told about. Trained tasks have rows
    only: what they say is told by `Quality`. `left_out` counts workloads that are told of nowhere else.
    """

    runs: tuple[Run, ...]
    against: tuple[str, ...]
    families: tuple[str, ...]  # of inputs that have a deviation
    rows: tuple[Row, ...]
    timed: tuple[Row, ...]
    parts: tuple[Slice, ...]
    left_out: int
    samples: Timings
    baselines: Mapping[str, str]  # by run
    growth: tuple[Scaling, ...]
    standings: tuple[tuple[Slice, list[Standing]], ...]

    @classmethod
    def of(cls, runs: Sequence[Run], against: Sequence[str] = ()) -> Findings:
        """
        Raises:
            UnknownReference: no row has a label of `against`.
        """
        families = deviation_families(runs)
        rows = [row for run in runs for row in rows_of(run, families)]
        for label in against:
            check_reference(label, (r["label"] for r in rows if r["task"] is None))
        workloads = slices(r for r in rows if r["task"] is None)
        parts = richest(workloads)
        timed = [r for part in parts for r in part.rows]
        samples = timings(runs)
        return cls(
            runs=tuple(runs),
            against=tuple(against),
            families=families,
            rows=tuple(rows),
            timed=tuple(timed),
            parts=tuple(parts),
            left_out=len(workloads) - len(parts),
            samples=samples,
            baselines={run.name: run.baseline for run in runs},
            growth=tuple(s for axis in AXES for s in scalings(timed, samples, axis)),
            standings=tuple(standings(runs, parts, against)),
        )


def richest(workloads: Sequence[Slice]) -> list[Slice]:
    """As many workloads as a report can hold: those with most times, by phase, else in their order."""
    ordered = sorted(workloads, key=lambda part: -sum(is_fit(r) for r in part.rows))
    kept = {id(part) for part in ordered[:MOST_WORKLOADS]}
    return sorted(
        (part for part in workloads if id(part) in kept), key=lambda part: _place(part.axes["phase"])
    )


def _place(phase: str) -> int:
    """A plain call first, then training, then decoding, then what a plugin may have thought of."""
    return PHASES.index(phase) if phase in PHASES else len(PHASES)
