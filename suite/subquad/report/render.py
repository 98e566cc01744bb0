"""Write a report: a pure function of runs.

The answer comes first, then what it rests on: curves, crossovers, growth, quality, what is paid once;
then everything that was measured, where, and how to read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subquad.analyze.slices import Slice, common, describe, heading, is_fit, slices
from subquad.analyze.standing import Standing
from subquad.analyze.summary import Row, columns
from subquad.record import Run, Status
from subquad.report.advice import advice_section
from subquad.report.crossing_figure import NAME as CROSSINGS
from subquad.report.crossing_figure import draw_crossings
from subquad.report.crossings import crossings_section
from subquad.report.embed import embed
from subquad.report.findings import Findings
from subquad.report.growth import growth_section
from subquad.report.hardware import hardware_section
from subquad.report.latex import is_table, latex
from subquad.report.list_figure import TITLE as LIST
from subquad.report.list_figure import draw_list
from subquad.report.markdown import csv_text, escape
from subquad.report.noise import noise_floor
from subquad.report.older import drop_older
from subquad.report.page.document import document
from subquad.report.page.explore import explored
from subquad.report.page.markup import sections
from subquad.report.plots import (
    DECODE,
    DECODE_MEMORY,
    HEADS,
    MEMORY,
    SPEEDUP,
    TIME,
    Figure,
    draw_all,
)
from subquad.report.quality_report import Quality
from subquad.report.recall import TITLE as RECALL_TITLE
from subquad.report.setup import setup_section
from subquad.report.standings import standings_section
from subquad.report.tables import (
    failures_table,
    kernels_table,
    machine_lines,
    seq_len_table,
    workload_table,
)
from subquad.report.versus import versus_section

READING = """\
A time is that of one call: the median of each process, then the geometric mean over processes; its
95 % interval is over processes. A speed-up is the reference's time over the variant's, paired within
the rounds of a process, so what slows a process, or a part of it, cancels. Two variants are *tied*
where the interval of their paired ratio holds 1. Controls do not compete for fastest. *Not
determined* means that too few processes measured it. Peak workspace is memory beyond inputs and
outputs. Oracle error is the distance to a variant's own definition and only a gate; deviation is
the distance to full softmax attention, and skill is 1 at full attention and 0 at the mean of the
visible values. Roofline share is the least time the machine's measured ceilings allow over the
measured time. A dash says that something was not measured."""

PAPER = (
    *("Which attention to use", "How time and memory grow", "Quality", RECALL_TITLE),
    *("Quality against cost", "Set-up and first call", "Verdicts"),
)
"""Sections whose tables are written as LaTeX, too."""

KERNELS = """\
What torch dispatched in one call: operators of attention, code of torch.compile and what packages
registered, where there are any; else the operators that took longest. A variant that declares its
kernel and ran another is in the table above and has no time."""


@dataclass(frozen=True)
class Report:
    """What was written: `page` is report.md, `html` the same for a browser."""

    page: Path
    html: Path
    tables: tuple[Path, ...]
    figures: tuple[Figure, ...]

    @property
    def paths(self) -> list[Path]:
        return [
            self.page,
            self.html,
            *self.tables,
            *(path for figure in self.figures for path in figure.files),
        ]


def render(runs: Sequence[Run] | Run, out: Path, against: Sequence[str] = ()) -> Report:
    """Write index.html, report.md, tables as CSV and LaTeX, and figures/ under `out`, over all runs.

    `against` are the labels that verdicts and crossovers are told against, instead of the baseline and
    the best exact kernel.

    Raises:
        UnknownReference: no row has that label.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    found, quality, where = Findings.of(runs, against), Quality.of(runs), machine(runs)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    curves = draw_all(found.timed, where, out / "figures")
    crossings = draw_crossings(found, where, out / "figures")
    listed = draw_list(found, where, out / "figures")
    figures = [*curves, *(figure for figure in (listed, crossings) if figure)]
    quality_figures = quality.draw(where, out / "figures")
    blocks = page_blocks(found, figures, quality.blocks(quality_figures))
    figures += quality_figures.all
    texts = {
        out / "report.md": "\n\n".join(blocks) + "\n",
        out / "index.html": document(blocks, figures, explored(found)),
        out / "cells.csv": csv_text(columns(found.families), found.rows),
        **quality.tables(out),
        **latex_tables(blocks, common(found.parts), out / "tables"),
    }
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    page, html, *tables = texts
    report = Report(page, html, tuple(tables), tuple(figures))
    drop_older(out, report.paths)
    return report


def _more(count: int) -> list[str]:
    if count < 1:
        return []
    more = "1 more workload, with fewer times, is" if count == 1 else f"{count} more workloads are"
    return [f"{more} in cells.csv only."]


def latex_tables(blocks: Sequence[str], where: str, out: Path) -> dict[Path, str]:
    """The tables that a paper may want, each in a file of its own: those of the sections in PAPER.

    `where` is what all workloads have in common; every caption says it.
    """
    found = {}
    for section in sections(blocks)[2]:
        if section.title not in PAPER:
            continue
        before = ""
        number = 0
        for block in section.blocks:
            if is_table(block):
                number += 1
                name = f"{section.id}-{number}"
                caption = ": ".join(
                    filter(None, (section.title, ", ".join(filter(None, (before, where)))))
                )
                found[out / f"{name}.tex"] = latex(block, caption, name)
            elif block.startswith(("**", "###")) and "\n" not in block:
                before = block.strip("*# ")
    return found


def machine(runs: Sequence[Run]) -> str:
    """The machines in a few words, for the subtitle of a figure."""
    found = []
    for environment in (e for run in runs for e in run.environments.values()):
        gpu = environment.get("gpu")
        device = _word(
            (gpu[0] if isinstance(gpu, (list, tuple)) and gpu else gpu) or environment.get("cpu")
        )
        torch = _word((environment.get("packages") or {}).get("torch"))
        found.append(", ".join(filter(None, (device, torch and f"torch {torch}"))))
    return "; ".join(dict.fromkeys(filter(None, found)))


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("model") or value.get("name") or value.get("version") or "")
    return str(value) if value else ""


def page_blocks(found: Findings, figures: Sequence[Figure], quality: Sequence[str]) -> list[str]:
    """The whole report as Markdown; `quality` are the blocks that say how good the variants are."""
    runs, parts = found.runs, found.parts
    everything = slices(found.rows)
    names = ", ".join(escape(run.name) for run in runs)
    blocks = [f"# Attention benchmark: {names or 'no run'}"]
    if not everything:
        blocks += ["## Nothing to report", "**There are no cells in these runs.**"]
    elif found.timed and not any(is_fit(r) or r["status"] == Status.OK for r in found.timed):
        blocks += ["## Nothing to choose from"]
        blocks += [f"**None of the {len(found.timed)} cells has a time; their reasons are below.**"]
    if common(parts):
        blocks += [f"All of it: {escape(common(parts))}."]
    blocks += advice_section(parts, found.samples)
    blocks += versus_section(runs)
    for title in (LIST, TIME.title, MEMORY.title, SPEEDUP.title):
        blocks += _figures(figures, title)
    crossings = next((figure for figure in figures if figure.name == CROSSINGS), None)
    blocks += crossings_section(found, crossings)
    blocks += growth_section(parts, found.growth)
    blocks += quality
    for title in (HEADS.title, DECODE.title, DECODE_MEMORY.title):
        blocks += _figures(figures, title)
    blocks += hardware_section(parts, found.samples)
    blocks += setup_section(parts)
    blocks += standings_section(found.standings)
    blocks += _failures(everything)
    blocks += _deviation_gaps(runs)
    blocks += ["## Noise floor", *map(noise_floor, runs)] if runs else []
    blocks += _what_was_run(runs, [r for r in found.rows if r["task"] is None])
    blocks += _more(found.left_out)
    blocks += ["## How to read this", READING]
    blocks += _kernels(parts)
    blocks += _details(found.standings, found.families)
    blocks += _warnings(runs)
    return blocks


def _figures(figures: Sequence[Figure], title: str) -> list[str]:
    shown = [block for figure in figures if figure.title == title for block in embed(figure)]
    return [f"## {title}", *shown] if shown else []


def _what_was_run(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    blocks = ["## What was run"] if runs else []
    for run in runs:
        mine = [r for r in rows if r["run"] == run.name]
        timed = sum(is_fit(r) for r in mine)
        ok = sum(r["status"] == Status.OK for r in mine)
        lines = [f"- Run {escape(run.name)}: {len(mine)} cells, {timed} with a time, {ok} ok; "
                 f"baseline {escape(run.baseline)}"]  # fmt: skip
        lines += [f"- Machine: {line}" for line in machine_lines(run) or ["not recorded"]]
        keys = ("hardware", "device", "threads", "allocator")
        used = dict.fromkeys(describe(r, keys) for r in mine)
        lines += [f"- Ran {escape(text)}" for text in used]
        blocks.append("\n".join(lines))
    return blocks


def _failures(parts: Sequence[Slice]) -> list[str]:
    failures = failures_table(parts)
    if failures is None:
        return ["## Rows that are not ok", "None: every cell is ok."] if parts else []
    return ["## Rows that are not ok", failures]


def _kernels(parts: Sequence[Slice]) -> list[str]:
    """What ran; nothing for runs from before it was recorded."""
    found = kernels_table(parts)
    if found is None:
        return []
    return ["## Kernels", KERNELS, found]


def _deviation_gaps(runs: Sequence[Run]) -> list[str]:
    """Why a family of inputs gave no deviation, each reason once; not that it does not apply."""
    gaps: dict[str, dict[str, None]] = {}
    for m in (m for run in runs for m in run.measurements):
        for d in m.deviations:
            if d.reason and m.computes != "different":
                gaps.setdefault(d.reason, {})[d.inputs] = None
    if not gaps:
        return []
    lines = [f"- {escape(', '.join(inputs))}: {escape(reason)}" for reason, inputs in gaps.items()]
    return ["## Deviations that could not be measured", "\n".join(lines)]


def _details(found: Sequence[tuple[Slice, Sequence[Standing]]], families: Sequence[str]) -> list[str]:
    found = [(part, mine) for part, mine in found if any(_weighed(r) for r in part.rows)]
    blocks = ["## Every workload"] if found else []
    names = heading([part for part, _ in found])
    for part, mine in found:
        blocks += [f"### {escape(describe(part.axes, names))}", seq_len_table(part)]
        for n in part.seq_lens:
            blocks += [f"#### seq_len {n}", workload_table(part.at(n), families, mine)]
    return blocks


def _weighed(row: Row) -> bool:
    """Whether its time or memory was measured."""
    return row["time_s"] is not None or row["workspace_bytes"] is not None


def _warnings(runs: Sequence[Run]) -> list[str]:
    lines = [f"- {escape(run.name)}: {escape(text)}" for run in runs for text in run.warnings]
    return ["## Warnings", "\n".join(lines)] if lines else []
