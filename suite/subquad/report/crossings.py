"""The part of a report that says from which seq_len on one variant overtakes another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from subquad.analyze.crossover import (
    Crossing,
    Crossover,
    Direction,
    Gap,
    Kind,
    Reference,
    Sign,
    crossovers,
    references,
)
from subquad.analyze.slices import Slice, describe, heading, is_fit
from subquad.report.embed import embed
from subquad.report.findings import Findings
from subquad.report.markdown import escape, table
from subquad.report.plots import Figure

READING = """\
A variant overtakes another between two measured lengths: at the first its time is surely on one side
of the other's, at the second surely on the other side (paired ratios, Holm-corrected over the lengths
of a curve, at most 5 % chance of a wrong side). That bracket is what was measured. The value in
brackets is interpolated inside it, with its 95 % interval, for curves that bend at most twice as much
between two lengths as around them. *Ambiguous* means that the two cannot be told apart at these
lengths. Nothing is said beyond the lengths at which both have a time. Controls are left out."""

NOT_PLANNED = "not planned"


def crossings_section(found: Findings, figure: Figure | None = None) -> list[str]:
    """Blocks of Markdown, with the figure; none where no slice has two lengths with a time.

    Compared is with the labels of `found.against`; by default with the baseline and the fastest exact
    variant.
    """
    names, against = heading(found.parts), found.against
    blocks = []
    for part in found.parts:
        if len({r["seq_len"] for r in part.rows if is_fit(r)}) < 2:
            continue
        blocks.append(f"**{escape(describe(part.axes, names))}**")
        chosen = _chosen(part, found.baselines[part.axes["run"]], against)
        for reference in chosen:
            curves = crossovers(part.rows, found.samples, reference.label)
            blocks += _against(reference, curves, part)
        if not chosen:
            blocks.append(
                f"No cell here is of {escape(' or '.join(against))}."
                if against
                else "Neither the baseline nor any exact variant has a time here."
            )
    shown = embed(figure) if figure else []
    return ["## Where one overtakes the other", *shown, READING, *blocks] if blocks else []


def _chosen(part: Slice, baseline: str, against: Sequence[str]) -> list[Reference]:
    if not against:
        return references(part, baseline)
    return [Reference(label) for label in dict.fromkeys(against) if label in part.labels]


def _against(reference: Reference, found: Sequence[Crossover], part: Slice) -> list[str]:
    controls = {r["label"] for r in part.rows if r["family"] == "control"}
    by_answer: dict[str, list[Crossover]] = {}
    for one in sorted((c for c in found if c.label not in controls), key=_order):
        by_answer.setdefault(answer(one), []).append(one)
    if not by_answer:
        return []
    body = [[escape(", ".join(c.label for c in same)), escape(a)] for a, same in by_answer.items()]
    role = f", {reference.role}" if reference.role else ""
    gaps = {g.seq_len: g for c in found for g in c.gaps if g.label == reference.label}
    missing = _missing(gaps[n] for n in sorted(gaps))
    note = f" {escape(reference.label)} has {missing}: nothing is compared there." if missing else ""
    title = f"Against {escape(reference.label)}{role}:{note}"
    return [title, table(["variant", "its time"], body)]


def _order(found: Crossover) -> tuple[int, float]:
    """Crossings by where they are, then who is always faster, the unsure, the slower, the untimed."""
    if found.crossings:
        return 0, found.crossings[0].at
    if found.kind is Kind.NOT_COMPARED:
        return 4, 0.0
    if found.kind is Kind.AMBIGUOUS:
        return 2, 0.0
    return (1, 0.0) if found.side is Sign.FASTER else (3, 0.0)


def answer(found: Crossover) -> str:
    """One line for people: `faster from between 512 and 1024 (about 760 [690, 840])`."""
    if found.kind is Kind.NOT_COMPARED:
        return _not_compared(found)
    return "; ".join([_verdict(found), *_remarks(found)])


def _verdict(found: Crossover) -> str:
    if found.crossings:
        return ", then ".join(map(_crossing, found.crossings)) + _ambiguous_ends(found)
    if found.kind is Kind.NONE:
        last = found.points[-1].seq_len
        return "faster throughout" if found.side is Sign.FASTER else f"never faster up to {last}"
    if not found.decided:
        return "ambiguous throughout"
    first, last = found.decided[0].seq_len, found.decided[-1].seq_len
    where = f"at {first}" if first == last else f"from {first} to {last}"
    return f"{found.side} {where}{_ambiguous_ends(found)}"


def _ambiguous_ends(found: Crossover) -> str:
    ends = [f"below {found.ambiguous_below}"] if found.ambiguous_below else []
    ends += [f"above {found.ambiguous_above}"] if found.ambiguous_above else []
    return f", ambiguous {' and '.join(ends)}" if ends else ""


def _crossing(crossing: Crossing) -> str:
    word = "faster" if crossing.direction is Direction.FASTER else "slower"
    low = max(crossing.low, _rounded(crossing.at_low, math.floor))
    high = min(crossing.high, _rounded(crossing.at_high, math.ceil))
    middle = min(high, max(low, _rounded(crossing.at, round)))
    about = f"about {middle} [{low}, {high}]"
    return f"{word} from between {crossing.low} and {crossing.high} ({about})"


def _rounded(seq_len: float, way: Callable[[float], int]) -> int:
    """To two digits, which is as sure as an interpolated length ever is."""
    step: int = 10 ** max(0, math.floor(math.log10(seq_len)) - 1)
    return way(seq_len / step) * step


def _remarks(found: Crossover) -> list[str]:
    """What a reader must know besides: undecided lengths inside, times that are missing or unpaired."""
    decided = [p.seq_len for p in found.decided]
    inside = [n for n in found.undecided if decided and decided[0] < n < decided[-1]]
    inside = [n for n in inside if not any(c.low < n < c.high for c in found.crossings)]
    remarks = [f"cannot be told apart at {_listed(inside)}"] if inside else []
    if found.undetermined:
        remarks.append(f"not determined at {_listed(found.undetermined)} (too few processes)")
    if found.unpaired:
        remarks.append(f"not paired at {_listed(found.unpaired)} (another session)")
    missing = _missing(g for g in found.gaps if g.label == found.label)
    return [*remarks, *([missing] if missing else [])]


def _not_compared(found: Crossover) -> str:
    if found.points:
        (only,) = found.points
        side = "cannot be told apart there" if only.sign is Sign.UNDECIDED else f"{only.sign} there"
        return f"not compared: both have a time at {only.seq_len} only ({side})"
    mine = [g for g in found.gaps if g.label == found.label]
    if mine and {g.seq_len for g in mine} == {g.seq_len for g in found.gaps}:
        why = dict.fromkeys(g.status or NOT_PLANNED for g in mine)
        return f"not compared: no time at any length ({', '.join(why)})"
    return "not compared: no length at which both have a time"


def _missing(gaps: Iterable[Gap]) -> str:
    """`no time at 8192, 16384 (oom) and 32768 (not planned)`."""
    by_status: dict[str, list[int]] = {}
    for gap in gaps:
        by_status.setdefault(gap.status or NOT_PLANNED, []).append(gap.seq_len)
    where = " and ".join(f"{_listed(lengths)} ({status})" for status, lengths in by_status.items())
    return f"no time at {where}" if where else ""


def _listed(lengths: Iterable[int]) -> str:
    return ", ".join(map(str, lengths))
