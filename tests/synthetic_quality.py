"""Runs with planted quality: fidelity, recall and trained tasks beside the times of `synthetic`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from subquad.contract import Cost, Workload
from subquad.record import (
    Cell,
    Deviation,
    Measurement,
    Recall,
    RecallPoint,
    Run,
    Status,
    TaskScore,
    Training,
)
from synthetic import LINEAR, NAIVE, Planted, build_run

HARDWARE = {"name": "cpu-2", "threads": 2, "allocator": "default"}
FAMILIES = ("gaussian(scale=0.25)", "gaussian", "autoregressive", "captured")


def task(
    v: Planted,
    name: str,
    scores: Sequence[float | None] = (),
    *,
    status: Status = Status.OK,
    reason: str = "",
    solved: float = 0.99,
    shortcuts: Mapping[str, float] | None = None,
    metric: str = "accuracy",
    up: bool = True,
    asked: int = 1024,
    settings: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    seq_len: int = 64,
    causal: bool = True,
) -> Measurement:
    """One row of a task: test scores at the chosen rate, or how it ended; None is a lost seed."""
    w = Workload(32, 2, seq_len, 32, causal, phase="forward_backward")
    inputs = {"task": name, **(settings or {}), "seed": 0}
    cell = Cell(v.name, dict(v.params), w, HARDWARE, inputs)
    m = Measurement(cell, status, reason, family=v.family, computes=v.computes, environment="e0")
    if not scores:
        return m
    trainings = [Training(1e-3, 0, 400, 8.0, 0.4)]
    for seed, test in zip(seeds or range(len(scores)), scores, strict=True):
        lost = "" if test is not None else "loss was NaN at step 40"
        trainings.append(Training(3e-3, seed, 300, 6.0, test, test, lost))
    known = {"majority": 0.06, "one token": 0.12} if shortcuts is None else dict(shortcuts)
    score = TaskScore(name, metric, up, solved, tuple(trainings), known, asked, 25_000, 0.7)
    return replace(m, score=score)


def recall(v: Planted, by_pairs: Mapping[int, float], state_bytes: int | None = None) -> Measurement:
    """Accuracy by number of pairs, with an interval of one hundredth on each side."""
    w = Workload(1, 1, 1024, 64, True)
    points = tuple(
        RecallPoint(n, a, max(0.0, a - 0.01), min(1.0, a + 0.01), 64 * n, 8, 4.0, {}, state_bytes)
        for n, a in by_pairs.items()
    )
    cell = Cell(v.name, dict(v.params), w, HARDWARE, {"family": "gaussian", "seed": 1})
    found = Recall(1024, 0.0, points) if points else None
    return Measurement(
        cell, Status.OK, recall=found, family=v.family, computes=v.computes, environment="e0"
    )


def deviation(family: str, skill: float, half: float = 0.01, **rest: Any) -> Deviation:
    """Of a known skill, the mean of the values being 0.8 off."""
    off, by = 0.8 * (1 - skill), 0.8 * half
    return Deviation(
        family, 64, off, 0.8, draws=5, low=max(0.0, off - by), high=off + by,
        skill_low=skill - half, skill_high=min(1.0, skill + half),
        cosine=1 - off / 2, dq=off, dk=1.1 * off, dv=0.9 * off, **rest,
    )  # fmt: skip


def with_fidelity(run: Run, skills: Mapping[str, Mapping[str, float]]) -> Run:
    """The run with the skills of each variant by family; other variants keep their deviations."""
    changed = [
        replace(m, deviations=tuple(deviation(f, s) for f, s in skills[m.cell.variant].items()))
        if m.cell.variant in skills
        else m
        for m in run.measurements
    ]
    return replace(run, measurements=tuple(changed))


def crowd(count: int, seed: int = 0) -> list[Planted]:
    """That many variants of all families; the first is the baseline."""
    rng = np.random.default_rng(seed)
    names = ("full", "local", "sparse", "linear", "lowrank", "memory", "score", "hierarchical")
    kinds = ("exact", "restricted", "restricted", "different", "approximate", "different", "different")
    found = [NAIVE, replace(LINEAR, name="control_mean", family="control", skill=0.0)]
    for i in range(count - 2):
        family = names[i % len(names)]
        computes = "exact" if family == "full" else kinds[1 + i % 6]
        slope = float(math.exp(rng.normal(-16.5, 0.8)))
        skill = 1.0 if family == "full" else float(np.clip(rng.normal(0.5, 0.3), -0.4, 0.98))
        words = ("window", "bigbird", "performer", "delta_rule", "nystrom", "sink", "retention_chunked")
        found.append(
            Planted(
                f"{family}_{words[i % len(words)]}{i if i >= 7 else ''}", family, computes,
                (lambda w, s=slope: 4e-5 + s * w.heads * w.seq_len),
                (lambda w, s=slope: int(2e10 * s) * w.heads * w.seq_len), skill,
            )
        )  # fmt: skip
    return found


def quality_run(
    variants: Sequence[Planted],
    *,
    tasks: Sequence[str] = ("stacked_recall", "mqar", "listops", "digits"),
    seq_lens: Sequence[int] = (256, 1024),
    seed: int = 0,
    name: str = "planted",
) -> Run:
    """Times, skills on four families, recall and tasks; all follow each variant's planted skill."""
    rng = np.random.default_rng(seed)
    run = build_run(variants, seq_lens, causal=(True,), seed=seed, name=name)
    skills = {
        v.name: {f: 1 - (1 - v.skill) * (1 + 0.5 * i) for i, f in enumerate(FAMILIES)} for v in variants
    }
    run = with_fidelity(run, skills)
    measured = [_with_state(m) for m in run.measurements]
    for v in variants:
        ease = float(np.clip(v.skill, 0.0, 1.0))
        state = 2 * 1024 * 64 * 4 if v.family == "full" else int(16 * 1024 * (1 + 4 * ease))
        measured.append(recall(v, {n: ease ** (n / 64) for n in (4, 16, 64, 256, 1024)}, state))
        for i, t in enumerate(tasks):
            mean = 0.1 + 0.898 * ease ** (0.5 + 0.4 * i)
            scores = np.clip(mean + 0.02 * (1 - ease) * rng.standard_normal(3), 0, 1)
            measured.append(task(v, t, [round(float(s), 4) for s in scores]))
    return replace(run, measurements=tuple(measured))


def _with_state(m: Measurement) -> Measurement:
    w, cost = m.cell.workload, m.cost
    if cost is None:
        return m
    size = 2 * w.heads * w.head_dim * w.element_bytes
    state = size * (w.seq_len if m.family == "full" else 32 + len(m.cell.variant) * 4)
    return replace(m, cost=Cost(cost.flops, cost.bytes, cost.workspace_bytes, cost.exponent, state))
