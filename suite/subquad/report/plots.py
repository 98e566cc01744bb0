"""The figures of a report: what is drawn against what, from rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.axes import Axes

from subquad import units
from subquad.analyze.slices import Slice, is_fit, slices
from subquad.analyze.summary import Row
from subquad.report.facets import MAX_FACETS, Facets, gap_notes, guide
from subquad.report.style import (
    FAMILY_COLOURS,
    EndLabel,
    Look,
    label_ends,
    log_ticks,
    looks,
    save,
    styled,
    tick,
)

MOST_LINES = 16  # in one panel; beyond it families have panels of their own
LEADERS = "Of each family the variant that is fastest at the longest length; the others have tables."
FAMILIES = "Black in every panel: the fastest exact variant. Grey: all other families."


@dataclass(frozen=True)
class Figure:
    """A saved figure: its name, the files, and what a reader must know of it."""

    name: str
    title: str
    caption: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Curve:
    """One figure of a row against an axis of its workload."""

    name: str
    title: str
    y: str
    y_title: str
    write: Callable[[float], str]
    base: int = 10
    low: str | None = None
    high: str | None = None
    x: str = "seq_len"
    x_title: str = "sequence length"
    guides: bool = False
    line_at: float | None = None
    by_family: int = 0  # slices that have a figure by family where there are many variants


TIME = Curve(
    name="time_vs_seq_len",
    title="Time of one call by sequence length",
    y="time_s",
    y_title="time of one call",
    write=units.seconds,
    low="time_low_s",
    high="time_high_s",
    guides=True,
    by_family=2,
)
HEADS = replace(
    TIME,
    name="time_vs_heads",
    title="Time of one call by number of heads",
    x="heads",
    x_title="heads",
    guides=False,
    by_family=0,
)
DECODE = replace(
    TIME,
    name="decode_vs_context",
    title="Time of one step of decoding by length of the context",
    x_title="positions before the step",
    by_family=1,
)
MEMORY = Curve(
    name="memory_vs_seq_len",
    title="Peak workspace of one call by sequence length",
    y="workspace_bytes",
    y_title="peak memory beyond inputs and outputs",
    write=units.size,
    base=2,
    guides=True,
    by_family=1,
)
DECODE_MEMORY = replace(
    MEMORY,
    name="decode_memory_vs_context",
    title="Peak workspace of one step of decoding by length of the context",
    x_title="positions before the step",
    by_family=0,
)
SPEEDUP = Curve(
    name="speedup_vs_seq_len",
    title="Speed-up over the baseline by sequence length",
    y="speedup",
    y_title="speed-up over the baseline",
    write=units.ratio,
    base=2,
    low="speedup_low",
    high="speedup_high",
    line_at=1.0,
)


def draw_all(rows: Sequence[Row], machine: str, out: Path) -> list[Figure]:
    """Every figure that the rows have data for, saved under `out`."""
    with styled():
        style = looks(rows)
        whole = slices(r for r in rows if r["phase"] != "decode")
        steps = slices(r for r in rows if r["phase"] == "decode")
        drawn = [
            *((curve, whole) for curve in (TIME, MEMORY, SPEEDUP)),
            (HEADS, _by_heads(rows)),
            *((curve, steps) for curve in (DECODE, DECODE_MEMORY)),
        ]
        return [f for curve, found in drawn for f in _figures(curve, found, style, machine, out)]


def _by_heads(rows: Sequence[Row]) -> list[Slice]:
    """Slices over heads at the largest seq_len that two head counts have a time at."""
    found = []
    for part in slices(rows, free=("heads",)):
        for n in reversed(part.seq_lens):
            here = tuple(r for r in part.rows if r["seq_len"] == n)
            if len({r["heads"] for r in here if is_fit(r)}) >= 2:
                found.append(Slice({**part.axes, "seq_len": n}, here))
                break
    return found


def _figures(
    curve: Curve, found: Sequence[Slice], style: dict[str, Look], machine: str, out: Path
) -> list[Figure]:
    """One line a variant, one facet a slice; none where no slice has two lengths with data.

    Of more lines than an eye can follow the fastest of each family are drawn; figures of their own hold
    all of them, one facet a family, for as many slices as the curve says.
    """
    reach = {id(p): len({r[curve.x] for r in p.rows if r[curve.y] is not None}) for p in found}
    drawable = sorted((p for p in found if reach[id(p)] >= 2), key=lambda p: -reach[id(p)])
    if not drawable:
        return []
    shown, left = drawable[:MAX_FACETS], len(drawable) - MAX_FACETS
    crowded = max(len(_drawn(curve, p)) for p in drawable) > MOST_LINES
    if crowded:
        shown = [_leaders(curve, p) for p in shown]
    notes = _notes(curve, shown, left)
    if crowded:
        notes.insert(0, LEADERS)
    facets = _facets(curve, shown, machine, notes)
    for ax, part in facets:
        _draw_curves(ax, curve, part, style, _limits(curve, shown))
    made = [_saved(curve, curve.name, facets, out)]
    for number, part in enumerate(drawable[: curve.by_family if crowded else 0], start=1):
        notes = [FAMILIES, *_notes(curve, [part])]
        facets = _facets(curve, _by_family(curve, part), machine, notes)
        for ax, family in facets:
            _draw_behind(ax, curve, [r for r in part.rows if r["label"] not in family.labels])
            _draw_curves(ax, curve, family, style, _limits(curve, [part]))
        made.append(_saved(curve, f"{curve.name}_by_family_{number}", facets, out))
    return made


def _drawn(curve: Curve, part: Slice) -> list[str]:
    return list(dict.fromkeys(r["label"] for r in part.rows if r[curve.y] is not None))


def _notes(curve: Curve, parts: Sequence[Slice], left: int = 0) -> list[str]:
    """What is missing in the slices, and how many there were no facets for."""
    notes = [f"{left} more workload families are in the tables."] if left > 0 else []
    if curve is SPEEDUP and any(is_fit(r) and r["speedup"] is None for p in parts for r in p.rows):
        notes.append("No speed-up where the baseline has no time.")
    notes += gap_notes(parts, curve.y, curve.x)
    if any(r[curve.y] == 0 for p in parts for r in p.rows):
        notes.append("A value of 0 has no place on a logarithmic axis and is not drawn.")
    return notes


def _facets(curve: Curve, parts: Sequence[Slice], machine: str, notes: Sequence[str]) -> Facets:
    facets = Facets.of(parts, curve.title, machine, notes)
    facets.label_axes(curve.x_title, curve.y_title)
    return facets


def _leaders(curve: Curve, part: Slice) -> Slice:
    """The rows of the baseline and of each family's fastest variant; controls lead nobody.

    Where there is no time, of each family the variant with the least value.
    """
    drawn = [r for r in part.rows if r[curve.y] is not None and r["family"] != "control"]
    drawn.sort(key=lambda r: (-r[curve.x], r["time_s"] or math.inf, r[curve.y]))
    first = {r["family"]: r["label"] for r in reversed(drawn)}
    baseline = {r["label"] for r in part.rows if _is_reference([r])}
    kept = {*first.values(), *baseline}
    return Slice(part.axes, tuple(r for r in part.rows if r["label"] in kept or not first))


def _by_family(curve: Curve, part: Slice) -> list[Slice]:
    """The rows of each family, small families together; the fastest exact variant is in all."""
    shown = set(_drawn(curve, part))
    drawn = [r for r in part.rows if r["label"] in shown]
    order = list(FAMILY_COLOURS)
    families = sorted(
        {r["family"] or "" for r in drawn}, key=lambda f: (order.index(f) if f in order else 99, f)
    )
    members = {f: {r["label"] for r in drawn if (r["family"] or "") == f} for f in families}
    small = [f for f in families if len(members[f]) < 3]
    groups = [[f] for f in families if f not in small] + ([small] if small else [])
    exact = [r for r in drawn if r["computes"] == "exact" and is_fit(r) and r["family"] != "control"]
    first = min(exact, key=lambda r: (-r[curve.x], r["time_s"]))["label"] if exact else None
    found = []
    for group in groups:
        rows = [r for r in drawn if (r["family"] or "") in group or r["label"] == first]
        found.append(Slice({**part.axes, "family": ", ".join(f or "none" for f in group)}, tuple(rows)))
    return found


def _draw_behind(ax: Axes, curve: Curve, rows: Sequence[Row]) -> None:
    """What else was measured, faint and without names."""
    xs: list[float] = []
    ys: list[float] = []
    for label in dict.fromkeys(r["label"] for r in rows):
        points = sorted((r[curve.x], r[curve.y]) for r in rows if r["label"] == label and r[curve.y])
        xs += [*(x for x, _ in points), math.nan]  # one path with gaps: many would swell the file
        ys += [*(y for _, y in points), math.nan]
    ax.plot(xs, ys, color="#e2e2e2", linewidth=0.8, zorder=0.5)


def _saved(curve: Curve, name: str, facets: Facets, out: Path) -> Figure:
    caption = " ".join([f"{curve.title}: {facets.subtitle}.", *facets.notes])
    return Figure(name, curve.title, caption, tuple(save(facets.figure, out / name)))


def _limits(curve: Curve, parts: Sequence[Slice]) -> tuple[float, float]:
    """One vertical range for all facets, never so small that noise looks like a slope."""
    names = [n for n in (curve.y, curve.low, curve.high) if n]
    rows = [r for p in parts for r in p.rows]
    values = [r[n] for r in rows for n in names if r[n] is not None and r[n] > 0]
    values += [curve.line_at] if curve.line_at else []
    low, high = min(values, default=1.0), max(values, default=1.0)
    margin = max((high / low) ** 0.06, 2 / math.sqrt(high / low), 1.05)
    return low / margin, high * margin


def _draw_curves(
    ax: Axes, curve: Curve, part: Slice, style: dict[str, Look], limits: tuple[float, float]
) -> None:
    xs = sorted({r[curve.x] for r in part.rows})
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=curve.base)
    ends = []
    for label in part.labels:
        by_x = {r[curve.x]: r for r in part.rows if r["label"] == label and (r[curve.y] or 0) > 0}
        if not by_x or (curve is SPEEDUP and _is_reference(by_x.values())):
            continue
        look = style[label]
        _draw_line(ax, curve, xs, by_x, look)
        last = max(by_x)
        ends.append(EndLabel(label, last, by_x[last][curve.y], look.colour))
    if curve.line_at is not None:
        ax.axhline(curve.line_at, color="#555555", linewidth=0.9, zorder=1.5)
    shown = sorted({r[curve.x] for r in part.rows if r[curve.y] is not None})
    ax.set_xlim(shown[0] / 2**0.25, shown[-1] * 2**0.12)
    ax.set_ylim(*limits)
    step = math.ceil(len(shown) / 7)
    tick(ax.xaxis, shown[::-1][::step][::-1], lambda v: str(int(v)))
    log_ticks(ax.yaxis, curve.base, curve.write)
    if curve.guides:
        for power, name in ((1, "n"), (2, "n²")):
            guide(ax, power, name)
    label_ends(ax, ends)


def _draw_line(ax: Axes, curve: Curve, xs: Sequence[int], by_x: dict[int, Row], look: Look) -> None:
    """A line with gaps where a value is missing, and its intervals."""
    ys = [by_x[x][curve.y] if x in by_x else math.nan for x in xs]  # matplotlib's way to say a gap
    ax.plot(xs, ys, color=look.colour, linestyle=look.dash, marker=look.marker, markeredgecolor="white",
            markeredgewidth=0.5, zorder=3)  # fmt: skip
    ends = {x: (row[curve.low], row[curve.high]) for x, row in by_x.items() if curve.low and curve.high}
    known = {x: e for x, e in ends.items() if None not in e}
    if known:
        low, high = zip(*known.values(), strict=True)
        ax.vlines(list(known), low, high, color=look.colour, linewidth=3.2, alpha=0.35, zorder=2,
                  capstyle="butt")  # fmt: skip


def _is_reference(rows: Iterable[Row]) -> bool:
    """Whether these are the baseline against itself: 1 by definition, drawn as the line."""
    return all(r["speedup"] == 1.0 == r["speedup_low"] == r["speedup_high"] for r in rows)
