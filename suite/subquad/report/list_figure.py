"""Time of every variant where a workload has one length: a list, the fastest on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from subquad import units
from subquad.analyze.slices import Slice, common, describe, heading, is_fit
from subquad.analyze.summary import Row
from subquad.report.findings import Findings
from subquad.report.plots import Figure
from subquad.report.style import GREY, LABEL_LIMIT, Look, clean, log_ticks, looks, plain, save, styled

NAME, TITLE = "time_at_one_length", "Time of one call"
NOTE = "The bar is the 95 % interval over processes. Variants in the order of the first panel."
ROW, HEAD, FOOT, PANEL, GAP = 0.2, 1.0, 0.85, 3.4, 0.35  # inches
MOST_PANELS = 3


def draw_list(found: Findings, machine: str, out: Path) -> Figure | None:
    """A panel for each of the workloads with most times; None where any has two lengths, or no two
    variants have a time."""
    timed = [[r for r in part.rows if is_fit(r)] for part in found.parts]
    if any(len({r["seq_len"] for r in rows}) > 1 for rows in timed):
        return None
    pairs = [(p, rows) for p, rows in zip(found.parts, timed, strict=True) if len(rows) > 1]
    pairs.sort(key=lambda pair: -len(pair[1]))
    if not pairs:
        return None
    with styled():
        return _figure(pairs[:MOST_PANELS], found, looks(found.timed), machine, out)


def _figure(
    panels: Sequence[tuple[Slice, list[Row]]],
    found: Findings,
    style: Mapping[str, Look],
    machine: str,
    out: Path,
) -> Figure:
    ordered = [r["label"] for _, rows in panels for r in sorted(rows, key=lambda r: float(r["time_s"]))]
    labels = list(dict.fromkeys(ordered))
    left = 0.35 + 0.066 * min(LABEL_LIMIT, max(map(len, labels)))
    wide = max(7.4, left + len(panels) * (PANEL + GAP))
    panel = (wide - left) / len(panels) - GAP
    high = HEAD + ROW * len(labels) + FOOT
    canvas = Canvas(figsize=(wide, high))
    where = ", ".join(filter(None, (common(found.parts), machine)))
    for y, text, size, weight in ((0.13, TITLE, 11.5, "bold"), (0.37, where, 8.2, "normal")):
        canvas.text(0.14 / wide, 1 - y / high, plain(text, int(wide * 17)), fontsize=size, va="top",
                    fontweight=weight, color="black" if weight == "bold" else GREY)  # fmt: skip
    canvas.text(0.14 / wide, 0.1 / high, NOTE, fontsize=7.4, color=GREY, va="bottom")
    names = [*heading(found.parts), "seq_len"]
    titles = [describe({**part.axes, "seq_len": rows[0]["seq_len"]}, names) for part, rows in panels]
    for i, (title, (_, rows)) in enumerate(zip(titles, panels, strict=True)):
        x = (left + i * (panel + GAP)) / wide
        ax = canvas.add_axes((x, FOOT / high, panel / wide, ROW * len(labels) / high))
        ax.set_title(plain(title, int(panel * 15)), fontsize=8.2, loc="left", pad=5)
        _draw(ax, {r["label"]: r for r in rows}, labels, style, named=i == 0)
    caption = f"{TITLE}: {'; '.join(titles)}, {where}. {NOTE}"
    return Figure(NAME, TITLE, caption, tuple(save(canvas, out / NAME)))


def _draw(
    ax: Axes, rows: Mapping[str, Row], labels: Sequence[str], style: Mapping[str, Look], *, named: bool
) -> None:
    clean(ax)
    ax.set_xscale("log")
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    for y, label in enumerate(labels):
        look = style[label]
        if named:
            ax.text(-0.02, y, plain(label, LABEL_LIMIT), transform=ax.get_yaxis_transform(),
                    fontsize=8.2, va="center", ha="right", color=look.colour)  # fmt: skip
        row = rows.get(label)
        if row is None:
            continue
        if row["time_low_s"] is not None and row["time_high_s"] is not None:
            ax.plot([row["time_low_s"], row["time_high_s"]], [y, y], color=look.colour, linewidth=3.2,
                    alpha=0.35, solid_capstyle="butt", zorder=2)  # fmt: skip
        ax.plot([row["time_s"]], [y], color=look.colour, marker=look.marker, markeredgecolor="white",
                markeredgewidth=0.5, zorder=3)  # fmt: skip
    log_ticks(ax.xaxis, 10, units.seconds)
    ax.tick_params(axis="x", labelsize=7.4)
    ax.set_xlabel("time of one call")
