"""Where each variant is faster than the best exact kernel, on a line of sequence lengths."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from subquad.analyze.crossover import Crossover, Kind, Sign, crossovers, references
from subquad.analyze.slices import Slice, Timings, describe, is_fit, naming
from subquad.report.findings import Findings
from subquad.report.plots import Figure
from subquad.report.style import FAINT, GREY, LABEL_LIMIT, Look, looks, plain, save, styled, tick

NAME, TITLE = "crossovers", "Where each variant overtakes the best exact kernel"
NOTES = """\
Filled: surely faster than the reference at that length; a cross: surely slower; hollow: cannot be told
apart (paired ratios, Holm-corrected over a curve). The bar is the bracket in which the two change
places, the upright line where, by interpolation, with its 95 % interval. Controls are left out."""
ROW, HEAD, FOOT, PANEL, GAP = 0.2, 1.0, 0.95, 3.6, 0.35  # inches
MOST_PANELS = 3
FASTER, SLOWER = "#0072B2", "#B05A00"


@dataclass(frozen=True)
class _Panel:
    part: Slice
    reference: str
    curves: Mapping[str, Crossover]


def draw_crossings(found: Findings, machine: str, out: Path) -> Figure | None:
    """One panel for each of the richest workloads; None where nothing was compared at two lengths."""
    asked = [c for part in found.parts if (c := _compared(part, found.baselines)) is not None]
    asked.sort(key=lambda c: -c[2])
    panels = [_panel(part, reference, found.samples) for part, reference, _ in asked[:MOST_PANELS]]
    panels = [p for p in panels if p.curves]
    if not panels:
        return None
    with styled():
        return _figure(panels, looks(found.timed), machine, out)


def _compared(part: Slice, baselines: Mapping[str, str]) -> tuple[Slice, str, int] | None:
    """Against whom a workload is drawn, and how many times there are beside a time of that one."""
    chosen = references(part, baselines.get(str(part.axes["run"]), ""))
    if not chosen or len(part.seq_lens) < 2:
        return None
    reference = chosen[-1].label  # the best exact kernel, or the baseline where there is no other
    there = {r["seq_len"] for r in part.rows if r["label"] == reference and is_fit(r)}
    others = _others(part, reference)
    count = sum(is_fit(r) and r["label"] in others and r["seq_len"] in there for r in part.rows)
    return part, reference, count


def _others(part: Slice, reference: str) -> set[str]:
    return {r["label"] for r in part.rows if r["family"] != "control"} - {reference}


def _panel(part: Slice, reference: str, timings: Timings) -> _Panel:
    others = _others(part, reference)
    rows = [r for r in part.rows if r["label"] in others or r["label"] == reference]
    found = crossovers(rows, timings, reference)
    return _Panel(part, reference, {c.label: c for c in found if c.kind is not Kind.NOT_COMPARED})


def _figure(
    panels: Sequence[_Panel], style: Mapping[str, Look], machine: str, out: Path
) -> Figure | None:
    labels = _ordered(panels)
    left = 0.35 + 0.066 * min(LABEL_LIMIT, max(map(len, labels)))
    wide = max(7.4, left + len(panels) * (PANEL + GAP))
    notes = textwrap.wrap(" ".join(NOTES.split()), int(wide * 17))
    high = HEAD + ROW * len(labels) + FOOT + 0.12 * len(notes)
    foot = high - HEAD - ROW * len(labels)
    canvas = Canvas(figsize=(wide, high))
    for y, text, size, weight in ((0.13, TITLE, 11.5, "bold"), (0.37, machine, 8.2, "normal")):
        canvas.text(0.14 / wide, 1 - y / high, plain(text, int(wide * 17)), fontsize=size, va="top",
                    fontweight=weight, color="black" if weight == "bold" else GREY)  # fmt: skip
    canvas.text(0.14 / wide, 0.1 / high, "\n".join(plain(n, 400) for n in notes), fontsize=7.4,
                color=GREY, va="bottom", linespacing=1.35)  # fmt: skip
    names = naming([p.part for p in panels])
    varying = [n for n in names if len({p.part.axes[n] for p in panels}) > 1]
    for i, panel in enumerate(panels):
        x = (left + i * (PANEL + GAP)) / wide
        ax = canvas.add_axes((x, foot / high, PANEL / wide, ROW * len(labels) / high))
        where = describe(panel.part.axes, varying or ["phase", "causal"])
        title = "\n".join(textwrap.wrap(plain(f"{where}: against {panel.reference}", 110), 56)[:2])
        ax.set_title(title, fontsize=8.2, loc="left", pad=5)
        _draw(ax, panel, labels, style, named=i == 0)
    told = "; ".join(f"{describe(p.part.axes, names)}: against {p.reference}" for p in panels)
    caption = f"{TITLE}: {told}. {' '.join(NOTES.split())}"
    return Figure(NAME, TITLE, caption, tuple(save(canvas, out / NAME)))


def _ordered(panels: Sequence[_Panel]) -> list[str]:
    """By where they become faster in the first panel, those that never do last."""

    def place(label: str) -> tuple[float, str]:
        for panel in panels:
            curve = panel.curves.get(label)
            if curve is None:
                continue
            if curve.crossings:
                return curve.crossings[0].at, label
            return {Sign.FASTER: 0.0, Sign.SLOWER: 1e12}.get(curve.side, 1e11), label
        return 1e13, label

    return sorted({label for p in panels for label in p.curves}, key=place)


def _draw(
    ax: Axes, panel: _Panel, labels: Sequence[str], style: Mapping[str, Look], *, named: bool
) -> None:
    lengths = panel.part.seq_lens
    ax.set_xscale("log", base=2)
    ax.set_xlim(lengths[0] / 2**0.4, lengths[-1] * 2**0.4)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    step = -(-len(lengths) // 8)
    tick(ax.xaxis, lengths[::-1][::step][::-1], lambda v: str(int(v)))
    ax.set_xlabel("sequence length")
    ax.set_yticks([])
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    for y in range(0, len(labels), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f5f5f5", linewidth=0, zorder=0)
    for y, label in enumerate(labels):
        if named:
            ax.text(-0.03, y, plain(label, LABEL_LIMIT), transform=ax.get_yaxis_transform(),
                    fontsize=8.2, va="center", ha="right", color=style[label].colour)  # fmt: skip
        if label in panel.curves:
            _line(ax, panel.curves[label], y)


def _line(ax: Axes, curve: Crossover, y: int) -> None:
    lengths = [p.seq_len for p in curve.points]
    ax.plot([lengths[0], lengths[-1]], [y, y], color=FAINT, linewidth=0.8, zorder=1)
    for c in curve.crossings:
        ax.plot([c.low, c.high], [y, y], color="#444444", linewidth=4.5, alpha=0.25, zorder=2,
                solid_capstyle="butt")  # fmt: skip
        ax.plot([c.at_low, c.at_high], [y, y], color="#222222", linewidth=1.4, zorder=2.5)
        ax.plot([c.at, c.at], [y - 0.36, y + 0.36], color="#222222", linewidth=1.4, zorder=2.5)
    for p in curve.points:
        if p.sign is Sign.SLOWER:
            ax.plot([p.seq_len], [y], marker="x", color=SLOWER, markersize=4.2, zorder=3)
        else:
            fill = FASTER if p.sign is Sign.FASTER else "white"
            edge = FASTER if p.sign is Sign.FASTER else GREY
            ax.plot([p.seq_len], [y], marker="o", color=edge, markerfacecolor=fill, markersize=4.6,
                    zorder=3)  # fmt: skip
