"""Small multiples of a figure, with titles, room for labels at line ends, and a caption."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subquad.analyze.slices import Slice, describe, differing
from subquad.report.style import FAINT, GREY, LABEL_LIMIT, clean, plain

MAX_FACETS = 4
LEFT, FOOT, HEAD, GAP = 0.92, 0.62, 0.86, 0.66  # inches
CAPTION_LINES = 5
LINE = 0.15  # inches a line of caption


@dataclass(frozen=True)
class Facets:
    """Slices of one figure, laid out in inches."""

    figure: Figure
    parts: tuple[Slice, ...]
    axes: tuple[Axes, ...]
    subtitle: str
    notes: tuple[str, ...]
    columns: int

    @classmethod
    def of(
        cls,
        parts: Sequence[Slice],
        title: str,
        machine: str,
        notes: Sequence[str],
        longer: int = 0,
    ) -> Facets:
        """Axes for the parts, with room for their labels and for the notes at the foot.

        `longer` is how many characters a label may have beyond the variant's.
        """
        workload, hardware = _common(parts)
        columns = 1 if len(parts) == 1 else 2
        labels = [label for part in parts for label in part.labels]
        longest = min(LABEL_LIMIT, max(map(len, labels)) + longer)
        height = max(3.4, 0.165 * max(len(part.labels) for part in parts))
        lines = _wrap(notes, 128 if columns == 1 else 178)
        figure, axes = _grid(len(parts), columns, height, 0.25 + 0.064 * longest, len(lines))
        wide, high = figure.get_size_inches()
        below = ", ".join(filter(None, (hardware, machine)))
        room = int(wide * 17)
        for y, text, size, colour, weight in (
            (0.13, title, 11.5, "black", "bold"),
            (0.37, workload, 8.2, GREY, "normal"),
            (0.53, below, 8.2, GREY, "normal"),
        ):
            figure.text(0.14 / wide, 1 - y / high, plain(text, room), fontsize=size, color=colour,
                        fontweight=weight, va="top")  # fmt: skip
        figure.text(0.14 / wide, 0.1 / high, "\n".join(plain(line) for line in lines), fontsize=7.4,
                    color=GREY, va="bottom", linespacing=1.35)  # fmt: skip
        for ax, part in zip(axes, parts, strict=True):
            clean(ax)
            if len(parts) > 1:
                ax.set_title(plain(facet_name(part, parts), 62), fontsize=9, loc="left", pad=12)
        return cls(
            figure,
            tuple(parts),
            axes,
            ", ".join(filter(None, (workload, below))),
            tuple(notes),
            columns,
        )

    def __iter__(self) -> Iterator[tuple[Axes, Slice]]:
        return iter(zip(self.axes, self.parts, strict=True))

    def label_axes(self, x: str, y: str) -> None:
        """Axis titles on the outer axes only."""
        for i, ax in enumerate(self.axes):
            if i % self.columns == 0:
                ax.set_ylabel(y)
            if i + self.columns >= len(self.axes):
                ax.set_xlabel(x)


def _common(parts: Sequence[Slice]) -> tuple[str, str]:
    """What all parts share: the workload, and the hardware it ran on."""
    varying, axes = differing(parts), parts[0].axes
    common = [a for a in axes if a not in varying and axes[a] is not None and a not in ("run", "seed")]
    machine = ("hardware", "device", "threads", "allocator")
    hardware = [a for a in common if a in machine and a != "device"]
    return describe(axes, [a for a in common if a not in machine]), describe(axes, hardware)


def facet_name(part: Slice, parts: Sequence[Slice]) -> str:
    """What tells a facet from its neighbours."""
    return describe(part.axes, differing(parts)) or "kv heads and kv_len as heads and seq_len"


def _wrap(notes: Sequence[str], width: int) -> list[str]:
    """The notes in lines, cut where they are long: the report has them whole."""
    lines = [line for text in notes for line in textwrap.wrap(text, width)]
    if len(lines) <= CAPTION_LINES:
        return lines
    return [*lines[: CAPTION_LINES - 1], "… and more: the report lists every row without a time"]


def _grid(
    count: int, columns: int, height: float, labels: float, lines: int
) -> tuple[Figure, tuple[Axes, ...]]:
    """Axes of equal size, each with `labels` inches to its right."""
    rows = math.ceil(count / columns)
    each = max(4.2, 7.4 - LEFT - labels) if columns == 1 else 3.2
    foot = FOOT + lines * LINE + (0.05 if lines else 0)
    head = HEAD + (0.3 if count > 1 else 0)
    total_w = columns * (LEFT + each + labels)
    total_h = head + rows * height + (rows - 1) * GAP + foot
    figure = Figure(figsize=(total_w, total_h))
    axes = []
    for i in range(count):
        row, column = divmod(i, columns)
        left = column * (LEFT + each + labels) + LEFT
        bottom = foot + (rows - 1 - row) * (height + GAP)
        axes.append(
            figure.add_axes((left / total_w, bottom / total_h, each / total_w, height / total_h))
        )
    return figure, tuple(axes)


def guide(ax: Axes, power: int, name: str) -> None:
    """A thin line growing as x**power through the lower left, named where it leaves the axes."""
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    start = y0 * (y1 / y0) ** 0.04
    x_end = min(x1, x0 * (y1 / start) ** (1 / power))
    y_end = start * (x_end / x0) ** power
    ax.plot(
        [x0, x_end], [start, y_end], color=FAINT, linewidth=0.9, zorder=1, scalex=False, scaley=False
    )
    share = 0.93 if x_end == x1 else 0.95
    x = x0 * (x_end / x0) ** share
    ax.text(x, start * (x / x0) ** power, name, color=GREY, fontsize=8, ha="center", va="center",
            zorder=3.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})  # fmt: skip


def gap_notes(parts: Sequence[Slice], y: str, x: str) -> list[str]:
    """What is missing in which facet; said once where it is the same in all."""
    missing = ["; ".join(gaps(part, y, x)) for part in parts]
    if len(set(missing)) == 1:
        everywhere = " in every panel" if len(parts) > 1 else ""
        return [f"No value{everywhere}: {missing[0]}."] if missing[0] else []
    return [f"{facet_name(p, parts)}: {text}." for p, text in zip(parts, missing, strict=True) if text]


def gaps(part: Slice, y: str, x: str) -> list[str]:
    """`full_naive: not at 16384 (oom)` for the rows that have no `y`, alike ones together."""
    missing: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for label in part.labels:
        by_status: dict[str, list[int]] = {}
        for r in part.of(label):
            if r[y] is None and r["status"] not in ("ok", "not_converged"):
                by_status.setdefault(r["status"], []).append(r[x])
        for status, places in by_status.items():
            missing.setdefault((status, tuple(sorted(places))), []).append(label)
    total = len({r[x] for r in part.rows})
    return [
        f"{', '.join(labels)}: {_where(places, total)} ({status})"
        for (status, places), labels in missing.items()
    ]


def _where(places: Sequence[int], total: int) -> str:
    return "nowhere" if len(places) == total else f"not at {', '.join(map(str, places))}"
