"""A picture of all task scores: variants below each other, a strip for each task beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from subquad.analyze.summary import rows as rows_of
from subquad.analyze.trained import Learned, TaskTable, Validity, Verdict, task_tables
from subquad.record import Run
from subquad.report.plots import Figure
from subquad.report.style import FAINT, GREY, LABEL_LIMIT, Look, looks, plain, save, styled
from subquad.report.tasks import written

MOST_TASKS = 7  # beside each other in one figure
LOWEST, HIGHEST = -0.12, 1.12  # of the way from the best shortcut to full attention
STRIP, GAP, ROW, HEAD, FOOT = 1.18, 0.16, 0.185, 1.08, 0.42  # inches
NOTES = (
    "In each strip the left line is the best answer that needs no attention, the right line full "
    "attention. Bar: 95 % interval. Filled: solved; half-filled: surely above the shortcut; hollow: "
    "neither. Figures are the scores themselves. Variants are in the order of their mean place over "
    "valid tasks, where no score counts as 0."
)


def draw_tasks(runs: Sequence[Run], machine: str, out: Path) -> list[Figure]:
    """Figures of the tasks of each run and hardware, at most seven tasks in each."""
    groups: dict[tuple[str, str], list[TaskTable]] = {}
    for t in task_tables(runs):
        if any(r.mean for r in t.rows):
            groups.setdefault((t.run, t.hardware), []).append(t)
    style = looks([row for run in runs for row in rows_of(run)])
    pages = [
        mine[i : i + MOST_TASKS] for mine in groups.values() for i in range(0, len(mine), MOST_TASKS)
    ]
    with styled():
        return [_figure(k, len(pages), p, style, machine, out) for k, p in enumerate(pages, start=1)]


def place(t: TaskTable, value: float) -> float | None:
    """How far a score is on the way from the best shortcut (0) to full attention (1).

    None where the task has no shortcut or no reference, or where full attention is not above it.
    """
    reference = t.of(t.reference) if t.reference is not None else None
    if reference is None or reference.mean is None or t.best_shortcut is None:
        return None
    start = t.shortcuts[t.best_shortcut]
    way = reference.mean.value - start
    if way == 0 or (way > 0) is not t.higher_is_better:
        return None
    return (value - start) / way


def order(found: Sequence[TaskTable]) -> list[str]:
    """Labels by their mean place over valid tasks, the best first; no score counts as 0."""
    labels = list(dict.fromkeys(r.label for t in found for r in t.rows))
    valid = [t for t in found if t.validity is Validity.VALID]

    def total(label: str) -> float:
        places = []
        for t in valid:
            r = t.of(label)
            places.append((place(t, r.mean.value) if r and r.mean else None) or 0.0)
        return sum(places)

    return sorted(labels, key=lambda label: (-total(label), label))


def _figure(
    number: int,
    count: int,
    found: Sequence[TaskTable],
    style: Mapping[str, Look],
    machine: str,
    out: Path,
) -> Figure:
    labels = order(found)
    left = 0.3 + 0.066 * min(LABEL_LIMIT, max(map(len, labels)))
    strip = STRIP * max(1.0, min(1.8, 5.5 / len(found)))
    wide = max(6.4, left + len(found) * (strip + GAP) + 0.2)
    notes = textwrap.wrap(NOTES, int(wide * 18))
    foot = FOOT - 0.1 + 0.15 * len(notes)
    high = HEAD + ROW * len(labels) + foot
    canvas = Canvas(figsize=(wide, high))
    title = "How much of each task is learned" + (f" ({number} of {count})" if count > 1 else "")
    where = ", ".join(filter(None, (found[0].run, f"on {found[0].hardware}", machine)))
    for y, text, size, colour in ((0.13, title, 11.5, "black"), (0.37, where, 8.2, GREY)):
        canvas.text(0.14 / wide, 1 - y / high, plain(text, int(wide * 17)), fontsize=size, color=colour,
                    fontweight="bold" if y < 0.2 else "normal", va="top")  # fmt: skip
    canvas.text(0.14 / wide, 0.1 / high, "\n".join(plain(n, 400) for n in notes), fontsize=7.4,
                color=GREY, va="bottom", linespacing=1.35)  # fmt: skip
    for i, t in enumerate(found):
        x = (left + i * (strip + GAP)) / wide
        ax = canvas.add_axes((x, foot / high, strip / wide, ROW * len(labels) / high))
        _strip(ax, t, labels, style, named=i == 0)
    name = "tasks" if count == 1 else f"tasks_{number}"
    files = save(canvas, out / name)
    invalid = [f"{t.task} is {t.validity} ({t.why})" for t in found if t.validity is not Validity.VALID]
    caption = " ".join([f"{title}: {where}.", NOTES, *(f"{text}." for text in invalid)])
    return Figure(name, title, caption, tuple(files))


def _strip(
    ax: Axes, t: TaskTable, labels: Sequence[str], style: Mapping[str, Look], *, named: bool
) -> None:
    ax.set_xlim(LOWEST - 0.03, HIGHEST + 0.62)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ("top", "right", "bottom", "left"):
        ax.spines[side].set_visible(False)
    for y in range(0, len(labels), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f5f5f5", linewidth=0, zorder=0)
    for x in (0.0, 1.0):
        ax.axvline(x, color=FAINT, linewidth=1.0, zorder=1)
    valid = t.validity is Validity.VALID
    name, bracket, settings = plain(t.task, 44).partition("[")
    head = [line for part in (name, bracket + settings) for line in textwrap.wrap(part, 19)][:2]
    if t.metric != "accuracy":
        head.append(plain(t.metric, 17) + ("" if t.higher_is_better else " ↓"))
    head += [] if valid else [str(t.validity)]
    ax.text(0.0, 1.0 + 0.06 / (ROW * len(labels)), "\n".join(head), transform=ax.transAxes,
            fontsize=8.2, va="bottom", color="black" if valid else "#B3261E")  # fmt: skip
    for y, label in enumerate(labels):
        if named:
            ax.text(LOWEST - 0.12, y, plain(label, LABEL_LIMIT), fontsize=8.2, va="center", ha="right",
                    color=style[label].colour)  # fmt: skip
        r = t.of(label)
        if r is not None:
            _dot(ax, t, r, y, style[label])


def _dot(ax: Axes, t: TaskTable, r: Learned, y: int, look: Look) -> None:
    """The score at its place with its interval, and in figures; or how the row ended."""
    if r.mean is None:
        ax.text(0.5, y, r.measurement.status.value.replace("_", " "), fontsize=6.6, color=GREY,
                va="center", ha="center", style="italic")  # fmt: skip
        return
    muted = t.validity is Validity.INVALID
    colour = FAINT if muted else look.colour
    ax.text(HIGHEST + 0.6, y, written(r.mean.value), fontsize=7, va="center", ha="right",
            color=GREY if muted else "#333333")  # fmt: skip
    x = place(t, r.mean.value)
    if x is None:
        return
    if r.interval is not None:
        ends = sorted(_inside(place(t, v) or 0.0) for v in r.interval)
        ax.plot(ends, [y, y], color=colour, linewidth=3.0, alpha=0.35, zorder=2, solid_capstyle="butt")
    fill = {Verdict.SOLVED: "full", Verdict.ABOVE_SHORTCUT: "left"}.get(r.verdict, "none")
    marker = "<" if x < LOWEST else ">" if x > HIGHEST else "o"
    ax.plot([_inside(x)], [y], color=colour, marker=marker, fillstyle=fill, markersize=5.6,
            markerfacecoloralt="white", markeredgewidth=1.0, linestyle="none", zorder=3)  # fmt: skip


def _inside(x: float) -> float:
    return min(HIGHEST, max(LOWEST, x))
