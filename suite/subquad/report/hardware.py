"""The same workload on several hardware, side by side: each variant's time on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from subquad import units
from subquad.analyze.intervals import LogMean, ratio
from subquad.analyze.slices import AXES, Slice, Timings, describe, heading, is_fit
from subquad.analyze.summary import Row
from subquad.analyze.verdicts import judge
from subquad.report.markdown import escape, table

HARDWARE = ("hardware", "device", "threads", "allocator")
MOST = 4
ABSENT = "–"

READING = """\
Times at the longest length that all hardware has, and the ratio to the first: below 1 is faster. They
were measured in different sessions, so nothing cancels (Welch, over processes); verdicts are corrected
by Holm over a column."""


def hardware_section(parts: Sequence[Slice], timings: Timings) -> list[str]:
    """A table for each workload of a run that was measured on two hardware or more."""
    groups: dict[tuple[Any, ...], list[Slice]] = {}
    for part in parts:
        if any(is_fit(r) for r in part.rows):
            key = tuple(part.axes[a] for a in AXES if a not in HARDWARE)
            groups.setdefault(key, []).append(part)
    blocks: list[str] = []
    names = [n for n in heading(parts) if n not in HARDWARE]
    for group in groups.values():
        common = set.intersection(*(_lengths(p) for p in group))
        if len(group) < 2 or not common or len(blocks) >= 2 * MOST:
            continue
        n = max(common)
        where = describe({**group[0].axes, "seq_len": n}, ["seq_len", *names])
        blocks += [f"**{escape(where)}**", hardware_table(group, n, timings)]
    return ["## By hardware", READING, *blocks] if blocks else []


def _lengths(part: Slice) -> set[int]:
    return {int(r["seq_len"]) for r in part.rows if is_fit(r)}


def hardware_table(group: Sequence[Slice], n: int, timings: Timings) -> str:
    """Variants by hardware: the time, and beside all but the first its ratio with the verdict."""
    columns = [{r["label"]: r for r in p.at(n)} for p in group]
    labels = list(dict.fromkeys(label for p in group for label in p.labels))
    ratios = [_ratios(columns[0], column, labels, timings) for column in columns[1:]]
    names = [describe(p.axes, [a for a in HARDWARE if a != "device"]) for p in group]
    head = ["variant", escape(names[0])]
    for name in names[1:]:
        head += [escape(name), "ratio [95 % interval], verdict"]
    body = []
    for label in labels:
        line = [escape(label), _time(columns[0].get(label))]
        for column, told in zip(columns[1:], ratios, strict=True):
            line += [_time(column.get(label)), told[label]]
        body.append(line)
    return table(head, body)


def _ratios(
    first: dict[str, Row], other: dict[str, Row], labels: Sequence[str], timings: Timings
) -> dict[str, str]:
    found: list[LogMean | None] = []
    for label in labels:
        a, b = first.get(label), other.get(label)
        if a is None or b is None or not (is_fit(a) and is_fit(b)):
            found.append(None)
            continue
        found.append(ratio(timings[b["run"], b["cell"]], timings[a["run"], a["cell"]]))
    told = {}
    for label, mean, judged in zip(labels, found, judge(found), strict=True):
        i = judged.interval
        if mean is None or i is None:
            told[label] = ABSENT
        elif i.low is None or i.high is None:
            told[label] = f"{units.ratio(i.estimate)} [not determined]"
        else:
            between = f"[{units.ratio(i.low)}, {units.ratio(i.high)}]"
            told[label] = f"{units.ratio(i.estimate)} {between} {judged.verdict}"
    return told


def _time(row: Row | None) -> str:
    if row is None:
        return ABSENT
    return units.seconds(row["time_s"]) if is_fit(row) else str(row["status"])
