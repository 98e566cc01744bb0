"""Which rows stand beside each other in a table or plot: all axes alike but variant and seq_len."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subquad.analyze.intervals import ratio_interval
from subquad.analyze.summary import Row
from subquad.record import Run, Status, Timing

AXES = (
    *("run", "hardware", "device", "threads", "allocator", "phase", "causal", "dtype"),
    *("batch", "heads", "kv_heads", "kv_len", "fill", "head_dim", "inputs", "seed"),
)

Timings = Mapping[tuple[str, str], Timing]
"""Samples by (run, cell): rows hold statistics only, and pairing two variants needs the samples."""


@dataclass(frozen=True)
class Slice:
    """Rows that differ in variant and seq_len only."""

    axes: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def seq_lens(self) -> list[int]:
        return sorted({r["seq_len"] for r in self.rows})

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(r["label"] for r in self.rows))

    def at(self, seq_len: int) -> list[Row]:
        """The rows of one workload: timed ones first, by time, then the others in their order."""
        found = [r for r in self.rows if r["seq_len"] == seq_len]
        return sorted(found, key=lambda r: (r["time_s"] is None, r["time_s"] or 0.0))

    def of(self, label: str) -> list[Row]:
        """The rows of one variant by seq_len."""
        return sorted((r for r in self.rows if r["label"] == label), key=lambda r: int(r["seq_len"]))


def slices(rows: Iterable[Row], free: Sequence[str] = ()) -> list[Slice]:
    """Rows grouped by their axes, in the order of first appearance; `free` axes may differ too."""
    fixed = [axis for axis in AXES if axis not in free]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[axis] for axis in fixed), []).append(row)
    return [Slice(dict(zip(fixed, key, strict=True)), tuple(g)) for key, g in groups.items()]


def differing(found: Sequence[Slice]) -> list[str]:
    """Axes in which the slices are not all alike."""
    names = list(found[0].axes) if found else []
    return [n for n in names if len({s.axes[n] for s in found}) > 1]


def naming(found: Sequence[Slice]) -> list[str]:
    """Axes that a heading names: those that matter to a reader, and any that tells slices apart."""
    varying = differing(found)
    return [axis for axis in AXES if axis in varying or axis not in ("run", "device", "seed")]


def heading(found: Sequence[Slice]) -> list[str]:
    """Axes that a heading names where `common` says the others once: phase, masking, what differs."""
    varying = differing(found)
    return [axis for axis in AXES if axis in varying or axis in ("phase", "causal")]


def common(found: Sequence[Slice]) -> str:
    """What all slices share that no heading names; empty for no slice."""
    named = {*heading(found), "run", "device", "seed"}
    return describe(found[0].axes, [a for a in AXES if a not in named]) if found else ""


def describe(axes: Mapping[str, Any], names: Iterable[str]) -> str:
    """The named axes for people: `forward, causal, float32, batch 1, 8 heads, head_dim 64, on cpu-2`.

    An axis without a value is left out; kv_heads and kv_len without one equal heads and seq_len.
    """
    words = {
        "phase": "{}",
        "dtype": "{}",
        "heads": "{} heads",
        "kv_heads": "{} kv heads",
        "hardware": "on {}",
        "threads": "{} threads",
        "allocator": "allocator {}",
        "inputs": "{} inputs",
        "fill": "{:.0%} filled",
        "skill on": "skill on {} inputs",
        "family": "{}",
    }
    order = (
        *(
            "family",
            "skill on",
            "seq_len",
            "phase",
            "causal",
            "dtype",
            "batch",
            "heads",
            "kv_heads",
            "head_dim",
        ),
        *("kv_len", "fill", "inputs", "seed", "hardware", "device", "threads", "allocator", "run"),
    )
    wanted = set(names)
    parts = []
    for name in (n for n in order if n in wanted and axes.get(n) is not None):
        if name == "causal":
            parts.append("causal" if axes[name] else "not causal")
        elif name == "heads" and axes[name] == 1:
            parts.append("1 head")
        else:
            parts.append(words.get(name, name + " {}").format(axes[name]))
    return ", ".join(parts)


def timings(runs: Iterable[Run]) -> dict[tuple[str, str], Timing]:
    """The samples of every timed cell."""
    return {
        (run.name, m.cell.id): m.timing
        for run in runs
        for m in run.measurements
        if m.timing and m.status.has_time
    }


def is_fit(row: Row) -> bool:
    """Whether a row has a time of something that computes what it says."""
    return row["time_s"] is not None and Status(row["status"]).has_time


@dataclass(frozen=True)
class Fastest:
    """The row with the least time, those that cannot be told from it, and those not compared."""

    row: Row
    tied: tuple[Row, ...] = ()
    undetermined: tuple[Row, ...] = ()


def fastest(rows: Iterable[Row], timings: Timings) -> Fastest | None:
    """The fastest of one workload's rows; None where none has a time.

    A row is tied where the interval of its paired ratio to the fastest holds 1. Where that interval is
    not determined (one process, another session), a row counts as undetermined if its own time
    interval is not above the fastest's.
    """
    ordered = sorted((r for r in rows if is_fit(r)), key=lambda r: float(r["time_s"]))
    if not ordered:
        return None
    best, tied, unknown = ordered[0], [], []
    for row in ordered[1:]:
        answer = _slower(row, best, timings)
        if answer is None:
            unknown.append(row)
        elif not answer:
            tied.append(row)
    return Fastest(best, tuple(tied), tuple(unknown))


def _slower(row: Row, best: Row, timings: Timings) -> bool | None:
    """Whether `row` is surely slower than `best`; None where that is not determined."""
    mine, its = (timings.get((r["run"], r["cell"])) for r in (row, best))
    if mine and its and mine.session == its.session:
        ratio = ratio_interval(mine, its)
        if ratio and ratio.low is not None:
            return ratio.low > 1.0
    if row["time_low_s"] is not None and best["time_high_s"] is not None:
        return True if row["time_low_s"] > best["time_high_s"] else None
    return None
