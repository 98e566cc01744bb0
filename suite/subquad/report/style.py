"""How every figure looks: colours, markers, ticks, labels at line ends, captions, saved bytes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from subquad.analyze.summary import Row

# Okabe & Ito, Color Universal Design (2008), https://jfly.uni-koeln.de/color/
FAMILY_COLOURS = {
    "full": "#1a1a1a",
    "local": "#0072B2",
    "sparse": "#E69F00",
    "linear": "#009E73",
    "lowrank": "#CC79A7",
    "recurrent": "#D55E00",
    "score": "#6A51A3",
    "memory": "#8A5A44",
    "hierarchical": "#56B4E9",
    "control": "#8c8c8c",
}
OTHER_COLOURS = ("#A6761D", "#5D7A1F", "#B2457A", "#2F7F8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.4, 1.4, 1.4)), (0, (9, 2)))
LABEL_LIMIT = 28  # characters of a name beside its line
CREATOR = "subquad"
GREY = "#6e6e6e"
FAINT = "#c9c9c9"
SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "subquad",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": 9,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.6,
}


@dataclass(frozen=True)
class Look:
    """How one variant is drawn, in every figure of a report."""

    colour: str
    marker: str
    dash: Any


def looks(rows: Iterable[Row]) -> dict[str, Look]:
    """A look for each label: the family's colour; marker and dash tell its members apart."""
    members: dict[str, list[str]] = {}
    for family, label in sorted({(r["family"] or "", r["label"]) for r in rows}):
        members.setdefault(family, []).append(label)
    found = {}
    for family, labels in members.items():
        for i, label in enumerate(labels):
            look = Look(family_colour(family), MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
            found[label] = look
    return found


def family_colour(family: str) -> str:
    """The same colour for a family everywhere, whatever else is in the figure."""
    other = OTHER_COLOURS[zlib.crc32(family.encode()) % len(OTHER_COLOURS)]
    return FAMILY_COLOURS.get(family, other)


def plain(text: object, limit: int = 200) -> str:
    """Text that matplotlib draws as it reads (`$` starts mathematics there), cut at `limit`."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    return line.replace("$", r"\$")


def short_number(text: str) -> str:
    """`1.00 ms` as a tick says it: `1 ms`."""
    number, _, unit = text.partition(" ")
    times = "x" if number.endswith("x") else ""
    number = number.removesuffix("x")
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{number}{times} {unit}".strip()


def powers(low: float, high: float, base: int, most: int = 7) -> list[float]:
    """Powers of `base` from low to high, thinned to at most `most`."""
    first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
    count = last - first + 1
    step = max(1, math.ceil(count / most))
    return [float(base) ** k for k in range(first, last + 1, step)]


def tick(axis: Any, values: Sequence[float], write: Callable[[float], str]) -> None:
    """Ticks at the values and nowhere else."""
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FixedFormatter([write(v) for v in values]))
    axis.set_minor_locator(NullLocator())


def log_ticks(axis: Any, base: int, write: Callable[[float], str]) -> None:
    """Ticks at powers of `base`; between them 1, 2, 5 where a decimal axis is short."""
    low, high = axis.get_view_interval()
    values = powers(low, high, base)
    if len(values) < 3 and base == 10:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [m * 10.0**k for k in decades for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    tick(axis, values, lambda v: short_number(write(v)))


def clean(ax: Axes) -> None:
    """No box, a faint grid behind the data."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(True, color="#ececec", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(length=3, width=0.7)


@dataclass(frozen=True)
class EndLabel:
    """A name to write beside the end of a line, at a point in data coordinates."""

    text: str
    x: float
    y: float
    colour: str


def label_ends(ax: Axes, labels: Sequence[EndLabel], size: float = 8.2) -> None:
    """Write names right of the axes at the height of their lines, moved apart where they collide."""
    if not labels:
        return
    figure = ax.get_figure(root=True)
    assert figure is not None
    height = ax.get_window_extent().height
    pitch = 1.28 * size * figure.dpi / 72 / height
    to_axes = ax.transAxes.inverted()
    ends = [to_axes.transform(ax.transData.transform((e.x, e.y))) for e in labels]
    order = sorted(
        range(len(labels)), key=lambda i: (float(ends[i][1]), float(ends[i][0]), labels[i].text)
    )
    places = spread([float(ends[i][1]) for i in order], pitch, 0.0, 1.0)
    for i, y in zip(order, places, strict=True):
        x0, y0 = (float(c) for c in ends[i])
        e, early = labels[i], float(ends[i][0]) < 0.9
        ax.plot([x0, 1.012, 1.028], [y0, y if early else y0, y], transform=ax.transAxes, color=e.colour,
                linewidth=0.6, linestyle=(0, (1, 2.5)) if early else "-", alpha=0.7, clip_on=False,
                zorder=1)  # fmt: skip
        ax.text(1.036, y, plain(e.text, LABEL_LIMIT), transform=ax.transAxes, color=e.colour,
                fontsize=size, va="center", ha="left")  # fmt: skip


def spread(places: Sequence[float], pitch: float, low: float = -1e9, high: float = 1e9) -> list[float]:
    """Sorted places moved as little as possible so that neighbours are at least `pitch` apart.

    Places that collide form a block around the mean of what its members asked for. All stay between
    `low` and `high`; where these leave no room, the uppermost end above `high`.
    """
    blocks: list[list[float]] = []  # [sum of asked-for starts, count]
    for i, place in enumerate(places):
        blocks.append([place - i * pitch, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    last = max(low, high - (len(places) - 1) * pitch)
    starts = [min(max(total / count, low), last) for total, count in blocks for _ in range(int(count))]
    return [start + i * pitch for i, start in enumerate(starts)]


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write PNG, SVG and PDF; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    png, svg, pdf = (stem.with_suffix(suffix) for suffix in (".png", ".svg", ".pdf"))
    figure.savefig(png, dpi=160, metadata={"Software": None})
    figure.savefig(svg, metadata={"Date": None, "Creator": CREATOR})
    figure.savefig(pdf, metadata={"CreationDate": None, "Creator": CREATOR, "Producer": None})
    return [png, svg, pdf]


def styled() -> Any:
    """The settings of all figures, for the time of a `with` block."""
    settings: Any = {**dict(matplotlib.rcParamsDefault), **SETTINGS}
    return matplotlib.rc_context(settings)
