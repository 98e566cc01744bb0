"""The part of a report that says how good each variant is: fidelity, trained tasks, what has no score.

Recall has a page of its own (`recall.py`); it is in the table of every score, quality.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from subquad.analyze.quality import Kind, Score, chosen_lr, scores
from subquad.analyze.trained import Learned, TaskTable, task_tables
from subquad.contract import Workload
from subquad.record import Run
from subquad.report.fidelity import fidelity_blocks
from subquad.report.laws import laws_blocks
from subquad.report.markdown import csv_text, escape, table
from subquad.report.plots import Figure
from subquad.report.tasks import tasks_blocks

SCORE_COLUMNS = (
    *("run", "kind", "what", "metric", "higher_is_better", "label", "variant", "family", "computes"),
    *("params", "hardware", "phase", "causal", "dtype", "batch", "heads", "kv_heads", "seq_len"),
    *("kv_len", "head_dim", "value", "low", "high", "replicates", "state_bytes", "status"),
    *("validity", "verdict", "p_above_shortcut", "shortcut", "solved", "against_full"),
    *("against_full_low", "against_full_high", "p_against_full", "lr", "train_s", "parameters"),
    *("pointing", "data", "reason", "cell"),
)
_OF_SCORE = [f.name for f in fields(Score) if f.name in SCORE_COLUMNS]
_OF_WORKLOAD = [f.name for f in fields(Workload) if f.name in SCORE_COLUMNS]


def quality_section(runs: Sequence[Run], figures: Sequence[Figure] = ()) -> list[str]:
    """Blocks of Markdown, with the figures of tasks; none where nothing was asked about quality."""
    found = scores(runs)
    blocks = [
        *fidelity_blocks(runs),
        *laws_blocks(runs),
        *tasks_blocks(task_tables(runs), figures),
        *_failures(found),
    ]
    return ["## Quality", *blocks] if blocks else []


def quality_csv(runs: Sequence[Run]) -> str:
    """Every score in long form, one line each."""
    learned = {(t.run, r.measurement.cell.id): (t, r) for t in task_tables(runs) for r in t.rows}
    return csv_text(
        SCORE_COLUMNS, (_line(s, *learned.get((s.run, s.cell), (None, None))) for s in scores(runs))
    )


def _line(s: Score, t: TaskTable | None, r: Learned | None) -> dict[str, Any]:
    line: dict[str, Any] = {n: getattr(s, n) for n in _OF_SCORE}
    line |= {n: getattr(s.workload, n) for n in _OF_WORKLOAD}
    line |= {"kind": s.kind.value, "status": s.status.value, "reason": s.reason or None}
    if t is None or r is None:
        return line
    line |= {"validity": t.validity.value, "verdict": r.verdict.value, "p_above_shortcut": r.p}
    line["shortcut"] = t.shortcuts[t.best_shortcut] if t.best_shortcut is not None else None
    line |= {"solved": t.solved, "p_against_full": r.p_against}
    if r.against:
        line |= {"against_full": r.against.value, "against_full_low": r.against.low}
        line |= {"against_full_high": r.against.high}
    score = r.measurement.score
    if score:
        line |= {"lr": chosen_lr(score), "train_s": sum(t.wall_s for t in score.trainings)}
        line |= {"parameters": score.parameters, "pointing": score.pointing}
        line["data"] = score.data or None
    return line


def _failures(found: Sequence[Score]) -> list[str]:
    """Scores that could not be had, alike ones in one line, and seeds that were lost."""
    groups: dict[tuple[str, str, str], dict[str, dict[str, None]]] = {}
    for s in found:
        expected = s.kind is Kind.FIDELITY and s.computes == "different" and s.status == "ok"
        if (s.value is not None and not s.reason) or expected:
            continue
        status = "ok" if s.value is not None else s.status.value
        mine = groups.setdefault((s.kind.value, status, s.reason or "no reason recorded"), {})
        mine.setdefault("what", {})[s.what] = None
        mine.setdefault("label", {})[s.label] = None
    if not groups:
        return []
    body = [
        [kind, escape(", ".join(g["what"])), escape(", ".join(g["label"])), status, escape(reason)]
        for (kind, status, reason), g in groups.items()
    ]
    return [
        "### What has no score, and why",
        table(["kind", "of", "variants", "status", "reason"], body),
    ]
