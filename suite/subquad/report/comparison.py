"""A comparison of two sides in words: for a terminal and as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import geometric_mean

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from subquad import units
from subquad.analyze.compare import Comparison, Outcome, Pair
from subquad.analyze.intervals import Interval
from subquad.analyze.sides import Condition
from subquad.analyze.verdicts import Verdict
from subquad.exchange import Entry
from subquad.report.markdown import escape, table

NOT_DETERMINED = "not determined"
NAMED = 3  # cells that a list names before it counts
LONGEST = 40  # characters of a recorded fact
TELLING = ("cpu.model", "gpu.name", "packages.torch", "kernel", "processor", "python_version")

READING = """\
A ratio is NEW over BASE: above 1 is slower. Its 95 % interval is over processes, and verdicts are \
corrected over the whole table (Holm). SLOWER and FASTER are claims that a difference is there; how \
large it is tells the interval. EQUIVALENT means surely within {margin}; AMBIGUOUS is no claim at all. \
A regression is a cell, or a variant over all its cells, that is SLOWER with a ratio of {limit} or \
more, a cell that lost its time, or one that needs over {threshold} and 64 KiB more workspace. A \
variant over all its cells is the mean of their ratios, with their scatter as its error."""


def show(c: Comparison, console: Console, everything: bool = False) -> None:
    """Print what changed; with `everything` also what is equivalent or ambiguous."""
    whole = not console.is_terminal  # a line that is searched for is not broken
    for line in opening(c):
        console.print(Text(line), soft_wrap=whole)
    rows = [p for p in ordered(c) if everything or _changed(p) or _whole_changed(c, p)]
    if rows:
        console.print(_table(c, rows))
    else:
        console.print(Text("No cell is surely faster or slower."))
    for line in [*findings(c), *remarks(c)]:
        console.print(Text(line), soft_wrap=whole)
    console.print(Text(closing(c), style="bold red" if c.failed else "bold"), soft_wrap=whole)


def page(c: Comparison) -> str:
    """The whole comparison as Markdown: what changed first, then every compared cell."""
    names = f"{escape(c.new.name)} against {escape(c.base.name)}"
    blocks = [f"# Comparison: {names}", f"**{escape(closing(c))}**"]
    return "\n\n".join([*blocks, *comparison_blocks(c, "##")]) + "\n"


def comparison_blocks(c: Comparison, level: str = "####") -> list[str]:
    """What was compared, what changed, and every compared cell, below headings of a level."""
    options = c.options
    reading = READING.format(
        margin=units.percent(options.margin),
        threshold=units.percent(options.threshold),
        limit=units.ratio(1 + options.threshold),
    )
    blocks = [f"{level} What was compared", _list(opening(c)), reading]
    blocks += [f"{level} Every variant over all its cells", _wholes(c)] if c.wholes else []
    changed = [p for p in ordered(c) if _changed(p)]
    blocks += [f"{level} What changed", _markdown(c, changed) if changed else "Nothing that is sure."]
    notes = [*findings(c), *remarks(c)]
    blocks += [_list(notes)] if notes else []
    blocks += [f"{level} Every compared cell", _markdown(c, ordered(c))] if ordered(c) else []
    return blocks


def opening(c: Comparison) -> list[str]:
    """What is compared with what, under which conditions."""
    compared = len(c.of(Outcome.COMPARED))
    lines = [
        f"BASE {c.base.name}, NEW {c.new.name}: {_count(len(c.pairs), 'cell')} in both, "
        f"{compared} compared",
        _conditions(c.conditions),
    ]
    if c.usual:
        lines.append(f"cells are {c.usual}, unless they say otherwise")
    if c.options.across_hardware:
        hardware = [_hardware(p.base) + " / " + _hardware(p.new) for p in c.pairs if p.new.cell]
        lines.append(f"hardware is left out of the match: {', '.join(dict.fromkeys(hardware))}")
    if c.identical:
        lines.append(
            f"the same measurement on both sides in {_count(c.identical, 'cell')}: "
            "a ratio of 1 by identity, no evidence"
        )
    if c.options.relative:
        names = sorted({p.label for p in c.references})
        about = f" ({', '.join(names)})" if names else ""
        lines.append(
            f"ratios are relative to each session's reference{about}: a machine that is slower as a "
            "whole cancels, and a change of the reference shows as the opposite change of all others"
        )
    shift = _shift(c)
    return [*lines, shift] if shift else lines


def _shift(c: Comparison) -> str:
    shift = c.shift()
    if shift is None:
        return ""
    middle = units.ratio(shift.ratio)
    if c.options.relative:
        return f"the reference itself, in plain time: median ratio {middle} in {shift.cells} cells"
    text = f"median ratio of {_count(shift.cells, 'cell')}: {middle}"
    if not shift.common(c.options.margin):
        return text
    return (
        f"{text}, and {units.percent(shift.share)} of them shift that way. Two runs at two times "
        "cannot tell a slower machine from slower code, and the intervals do not include it: "
        "--relative divides each side by its own reference first"
    )


def _conditions(found: Sequence[Condition]) -> str:
    """What the environments differ in; where they are alike, what they are."""
    differing = [c for c in found if c.differs]
    told = "; ".join(f"{_fact(c.name)} {_values(c.base)} -> {_values(c.new)}" for c in differing)
    if told:
        return f"environments differ: {told}"
    alike = ", ".join(f"{_fact(c.name)} {_values(c.base)}" for c in found if c.name in TELLING)
    return f"environments are alike: {alike}" if found else "environments: nothing recorded"


def _fact(name: str) -> str:
    return name.removeprefix("packages.").removesuffix(".model").removesuffix(".name")


def _values(values: Sequence[str]) -> str:
    short = [v if len(v) <= LONGEST else v[: LONGEST - 3] + "..." for v in values]
    return " | ".join(short) or "absent"


def _hardware(entry: Entry) -> str:
    return " ".join(str(v) for v in entry.cell.hardware.values()) if entry.cell else ""


def findings(c: Comparison) -> list[str]:
    """What was lost or needs more memory, a line a variant and reason."""
    lost: dict[tuple[str, str], list[str]] = {}
    for p in c.of(Outcome.LOST):
        lost.setdefault((p.label, p.reason), []).append(p.where)
    lines = [f"LOST {label}: {reason}: {_some(found)}" for (label, reason), found in lost.items()]
    grown: dict[str, list[tuple[float, str]]] = {}
    for p in c.pairs:
        if p.memory and p.heavier(c.options.threshold):
            base, new = p.memory
            text = f"{p.where} ({units.size(base)} -> {units.size(new)})"
            grown.setdefault(p.label, []).append((new / base if base else math.inf, text))
    for label, changes in grown.items():
        largest = sorted(changes, key=lambda change: -change[0])
        most = f", at most {units.ratio(largest[0][0])}" if math.isfinite(largest[0][0]) else ""
        head = f"MORE WORKSPACE {label} in {_count(len(changes), 'cell')}{most}"
        lines.append(f"{head}: {_some([text for _, text in largest])}")
    return lines


def remarks(c: Comparison) -> list[str]:
    """What a reader should know and no failure is."""
    gained = [f"{p.label} {p.where} ({p.reason})" for p in c.of(Outcome.GAINED)]
    lines = [f"a time only in NEW: {_some(gained)}"] if gained else []
    reasons = Counter(p.reason for p in c.of(Outcome.EXCLUDED))
    lines += [f"not comparable, {_count(n, 'cell')}: {reason}" for reason, n in reasons.items()]
    if c.missing:
        lines.append(f"missing in NEW, {_count(len(c.missing), 'cell')}: {_some(c.missing)}")
    if c.added:
        lines.append(f"only in NEW, {_count(len(c.added), 'cell')}: {_some(c.added)}")
    if c.single_process:
        lines.append(f"{NOT_DETERMINED}: one process a side; give a folder of several files")
    if c.half_width is not None:
        lines.append(
            f"half of the intervals are wider than {units.ratio(1 + c.half_width)} either way: "
            "a change below that may be among the ambiguous"
        )
    return lines


def closing(c: Comparison) -> str:
    """`3 slower by 5 % or more, 1 lost, 40 equivalent, ...`; what does not occur is left out."""
    slower = c.verdicts(Verdict.SLOWER)
    beyond = [p for p in slower if p.slower(c.options.threshold)]
    heavier = [p for p in c.pairs if p.heavier(c.options.threshold)]
    always = [
        f"{len(beyond)} slower by {units.percent(c.options.threshold)} or more",
        f"{len(c.of(Outcome.LOST))} lost",
    ]
    ambiguous = c.verdicts(Verdict.AMBIGUOUS)
    large = [p for p in ambiguous if p.ratio is not None and p.ratio >= 1 + c.options.threshold]
    unsure = f" ({len(large)} at {units.ratio(1 + c.options.threshold)} or more)" if large else ""
    whole = len(c.slower_variants)
    counts = {
        f"{'variant' if whole == 1 else 'variants'} slower over all cells": whole,
        "with more workspace": len(heavier),
        "slower by less": len(slower) - len(beyond),
        "faster": len(c.verdicts(Verdict.FASTER)),
        "equivalent": len(c.verdicts(Verdict.EQUIVALENT)),
        f"ambiguous{unsure}": len(ambiguous),
        "gained": len(c.of(Outcome.GAINED)),
        "not comparable": len(c.of(Outcome.EXCLUDED)),
        "without a time": len(c.of(Outcome.WITHOUT_TIME)),
        "missing in NEW": len(c.missing),
        "only in NEW": len(c.added),
    }
    return ", ".join(always + [f"{n} {what}" for what, n in counts.items() if n])


def ordered(c: Comparison) -> list[Pair]:
    """Compared pairs, variant by variant: the variant with the largest ratio first, and within it."""
    compared = [p for p in c.pairs if p.ratio is not None]
    worst: dict[str, float] = {}
    for p in compared:
        worst[p.label] = max(worst.get(p.label, 0.0), p.ratio or 0.0)
    return sorted(compared, key=lambda p: (-worst[p.label], p.label, -(p.ratio or 0.0)))


def _changed(pair: Pair) -> bool:
    return pair.judged is not None and pair.judged.verdict in (Verdict.FASTER, Verdict.SLOWER)


def _whole_changed(c: Comparison, pair: Pair) -> bool:
    """Whether the pair's variant is surely faster or slower over all its cells."""
    whole = c.whole(pair.label)
    return whole is not None and whole.judged.verdict in (Verdict.FASTER, Verdict.SLOWER)


def _table(c: Comparison, rows: Sequence[Pair]) -> Table:
    out = Table(pad_edge=False, box=None, padding=(0, 1, 0, 0))
    out.add_column("cell", min_width=17, max_width=40, overflow="fold")
    for heading in ("ratio", "95 % interval", "verdict", *_heads(c)):
        out.add_column(heading, justify="right", no_wrap=True)
    label = None
    for p in rows:
        if p.label != label:
            label = p.label
            out.add_row(Text(label, style="bold"), *_whole(c, label))
        style = "red" if p.slower(c.options.threshold) else ""
        out.add_row(
            Padding(Text(p.where), (0, 0, 0, 2)), *(Text(t, style=style) for t in _figures(c, p))
        )
    return out


def _whole(c: Comparison, label: str) -> list[Text]:
    """A variant over all its cells, where it has enough of them."""
    found = c.whole(label)
    if found is None or found.judged.interval is None:
        return []
    style = "bold red" if found.slower(c.options.threshold) else "bold"
    texts = [*_interval(found.judged.interval), found.judged.verdict.value, f"{found.cells} cells"]
    return [Text(text, style=style) for text in texts]


def _wholes(c: Comparison) -> str:
    body = []
    for w in sorted(c.wholes, key=lambda w: -(w.judged.interval.estimate if w.judged.interval else 0)):
        figures = _interval(w.judged.interval) if w.judged.interval else ["", NOT_DETERMINED]
        body.append([escape(w.label), str(w.cells), *figures, w.judged.verdict.value])
    heads = ["variant", "cells", "ratio", "95 % interval", "verdict"]
    return table(heads, body, right=heads[1:4])


def _markdown(c: Comparison, rows: Sequence[Pair]) -> str:
    heads = ["variant", "cell", "ratio", "95 % interval", "verdict", *_heads(c), "p (Holm)"]
    body = []
    for p in rows:
        adjusted = p.judged.p if p.judged else None
        figures = [*_figures(c, p), "–" if adjusted is None else units.significant(adjusted, 2)]
        body.append([escape(p.label), escape(p.where), *figures])
    return table(heads, body, right=[h for h in heads if h not in ("variant", "cell", "verdict")])


def _heads(c: Comparison) -> tuple[str, str]:
    return ("BASE/ref", "NEW/ref") if c.options.relative else ("BASE", "NEW")


def _figures(c: Comparison, p: Pair) -> list[str]:
    """Ratio, interval, verdict, and what the ratio is of."""
    assert p.judged is not None
    assert p.judged.interval is not None
    figures = _interval(p.judged.interval)
    return [*figures, p.judged.verdict.value, _of(c, p.base), _of(c, p.new)]


def _interval(found: Interval) -> list[str]:
    known = found.low is not None and found.high is not None
    text = f"{_ratio(found.low)} to {_ratio(found.high)}" if known else NOT_DETERMINED
    return [_ratio(found.estimate), text]


def _ratio(value: float | None) -> str:
    return "" if value is None else units.ratio(value)


def _of(c: Comparison, entry: Entry) -> str:
    values = entry.over_reference if c.options.relative else entry.seconds
    return (units.ratio if c.options.relative else units.seconds)(geometric_mean(values))


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)
