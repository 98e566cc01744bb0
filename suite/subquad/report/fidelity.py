"""The fidelity of every variant to full softmax attention, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from subquad import units
from subquad.analyze.slices import AXES, Slice, describe, naming
from subquad.analyze.summary import Row
from subquad.analyze.summary import rows as rows_of
from subquad.record import Deviation, Run
from subquad.report.markdown import csv_text, escape, table

ABSENT = "–"
NOT_APPLICABLE = "n/a"
MOST_TABLES = 4
DETAILED = "captured"  # the family of inputs whose details a page shows, where it was measured

FIDELITY = """\
Skill is 1 - deviation / deviation of the mean of the visible values, where deviation is the relative
Frobenius distance to full softmax attention in float64: 1 is full attention, 0 is no better than
averaging (`control_mean` is that by construction), below 0 is worse. In brackets the 95 % interval over
draws of the inputs; without one there was a single draw."""

DETAILS = """\
cosine: mean over rows of that between the two outputs. dQ, dK, dV: relative error of the gradients.
map error: relative, of the attention matrix; KL: of full attention's rows from the variant's, nats; row
sum and negative share (of the sum of absolute weights) tell whether the rows are distributions. mass
recall: weight that full attention gives to the variant's heaviest keys, over that of its own. entropy
gap: variant minus full, nats. bias and spread: of a random method, the error of its mean output and the
scatter around it. A dash: there is no such thing, or it was not measured."""


_FIGURES: tuple[tuple[str, str], ...] = (
    *(("cosine", "cosine"), ("dQ", "dq"), ("dK", "dk"), ("dV", "dv"), ("map error", "map_error")),
    *(("KL", "kl"), ("row sum", "row_sum"), ("negative share", "negative_share")),
    *(("mass recall", "mass_recall"), ("entropy gap", "entropy_gap"), ("bias", "bias")),
    ("spread", "spread"),
)
FIDELITY_COLUMNS = (
    *("run", "label", "inputs", "seq_len", *(a for a in AXES if a not in ("run", "inputs"))),
    *(
        "skill",
        "skill_low",
        "skill_high",
        "deviation",
        "low",
        "high",
        "mean_deviation",
        "rows",
        "draws",
        "seeds",
        "top",
    ),
    *(name for _, name in _FIGURES),
    "reason",
)


@dataclass(frozen=True)
class Beside:
    """Rows of one workload with what was measured of their fidelity, by label and family of inputs."""

    part: Slice
    seq_len: int
    found: Mapping[str, Mapping[str, Deviation]]
    rows: tuple[Row, ...]

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys(f for by_family in self.found.values() for f in by_family))


def fidelity_csv(runs: Sequence[Run]) -> str:
    """Every deviation with all its figures, one line each."""
    axes = (*AXES, "seq_len", "label")
    figures = [*(f.name for f in fields(Deviation) if f.name in FIDELITY_COLUMNS), "skill"]
    return csv_text(
        FIDELITY_COLUMNS,
        (
            {a: row[a] for a in axes} | {n: getattr(d, n) for n in figures}
            for row, deviations in _measured(runs)
            for d in deviations
        ),
    )


def _measured(runs: Iterable[Run]) -> Iterable[tuple[Row, tuple[Deviation, ...]]]:
    for run in runs:
        for row, m in zip(rows_of(run), run.measurements, strict=True):
            yield row, m.deviations


def beside(runs: Sequence[Run]) -> list[Beside]:
    """Workloads with fidelity, at the seq_len of most skills (the largest of these), most first.

    The phase changes nothing about fidelity: of workloads that differ in it alone the first counts.
    """
    groups: dict[tuple[Any, ...], dict[int, list[tuple[Row, tuple[Deviation, ...]]]]] = {}
    phases: dict[tuple[Any, ...], str] = {}
    for row, deviations in _measured(runs):
        if not deviations:
            continue
        key = tuple(row[a] for a in AXES if a != "phase")
        if phases.setdefault(key, row["phase"]) == row["phase"]:
            groups.setdefault(key, {}).setdefault(int(row["seq_len"]), []).append((row, deviations))
    made = []
    for by_length in groups.values():
        n = max(by_length, key=lambda n: (_skills(by_length[n]), n))
        here = by_length[n]
        found = {row["label"]: {d.inputs: d for d in ds} for row, ds in here}
        axes = {a: here[0][0][a] for a in AXES}
        rows = tuple(row for row, _ in here)
        made.append((_skills(here), Beside(Slice(axes, rows), n, found, rows)))
    return [b for _, b in sorted(made, key=lambda pair: -pair[0])]


def _skills(here: Iterable[tuple[Row, tuple[Deviation, ...]]]) -> int:
    return sum(d.skill is not None for _, ds in here for d in ds)


def fidelity_blocks(runs: Sequence[Run]) -> list[str]:
    found = [b for b in beside(runs) if b.families]
    if not found:
        return []
    names = [n for n in naming([b.part for b in found]) if n not in ("phase", "inputs")]
    blocks = ["### Fidelity to full attention", FIDELITY]
    for one in found[:MOST_TABLES]:
        where = describe({**one.part.axes, "seq_len": one.seq_len}, ["seq_len", *names])
        blocks += [f"**{escape(where)}**", fidelity_table(one)]
        others = _not_applicable(one)
        if others:
            text = ", ".join(map(escape, others))
            blocks.append(
                f"Not applicable ({NOT_APPLICABLE}), since they compute another function than softmax "
                f"attention on purpose, and their distance to it is no fault: {text}."
            )
        details = details_table(one)
        if details:
            family, text = details
            blocks += [f"Details on {escape(family)} inputs:", text]
    if len(found) > MOST_TABLES:
        blocks.append(f"{len(found) - MOST_TABLES} more workloads are in quality.csv.")
    blocks.append(f"{DETAILS} Every family of inputs and seq_len is in fidelity.csv.")
    return blocks


def fidelity_table(one: Beside) -> str:
    """Variants by family of inputs: skill with its interval; without those it says nothing of."""
    families, without = one.families, set(_not_applicable(one))
    body = []
    for row in one.rows:
        if row["label"] in without:
            continue
        mine = one.found[row["label"]]
        cells = [_skill(row, mine.get(f)) for f in families]
        body.append([escape(row["label"]), escape(row["computes"] or ABSENT), *cells])
    heads = [escape(f) for f in families]
    return table(["variant", "computes", *heads], body, right=heads)


def _skill(row: Row, d: Deviation | None) -> str:
    if d is None:
        return ABSENT
    if d.skill is None:
        return NOT_APPLICABLE if row["computes"] == "different" else ABSENT
    if d.skill_low is None or d.skill_high is None:
        return _two(d.skill)
    return f"{_two(d.skill)} [{_two(d.skill_low)}, {_two(d.skill_high)}]"


def _two(value: float) -> str:
    """Two decimals; three digits of what is far off."""
    text = f"{value:.2f}" if abs(value) < 10 else units.significant(value)
    return "0.00" if text == "-0.00" else text


def _not_applicable(one: Beside) -> list[str]:
    return [
        row["label"]
        for row in one.rows
        if row["computes"] == "different"
        and all(d.skill is None for d in one.found[row["label"]].values())
    ]


def details_table(one: Beside) -> tuple[str, str] | None:
    """Everything but the skill, on one family of inputs, without columns that nobody has."""
    family = next((f for f in one.families if f.startswith(DETAILED)), one.families[0])
    found = {
        label: mine[family] for label, mine in one.found.items() if mine.get(family, None) is not None
    }
    figures = [(t, n) for t, n in _FIGURES if any(getattr(d, n) is not None for d in found.values())]
    if not figures:
        return None
    body = []
    for label, d in found.items():
        values = [getattr(d, n) for _, n in figures]
        if any(v is not None for v in values):
            written = [ABSENT if v is None else units.significant(v, 2) for v in values]
            body.append([escape(label), *written])
    heads = [title for title, _ in figures]
    return family, table(["variant", *heads], body, right=heads)
