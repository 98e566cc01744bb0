"""Runs with planted times: what analysis and reports must find again.

Every session has `processes` workers with a lognormal effect common to all entries of a worker, and
independent noise on each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subquad.contract import Cost, Phase, Workload
from subquad.record import (
    Cell,
    Deviation,
    Gate,
    Measurement,
    Memory,
    Noise,
    ProcessTiming,
    Run,
    Session,
    Status,
    Timing,
)

Failure = tuple[Status, str]


@dataclass(frozen=True)
class Planted:
    """A variant with a known time and workspace."""

    name: str
    family: str
    computes: str
    time_s: Callable[[Workload], float]
    workspace: Callable[[Workload], int]
    skill: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)


def _grow(overhead: float, slope: float, power: int) -> Callable[[Workload], float]:
    return lambda w: overhead + slope * w.batch * w.heads * w.seq_len**power


def _space(each: int, power: int) -> Callable[[Workload], int]:
    return lambda w: each * w.heads * w.seq_len**power


NAIVE = Planted("full_naive", "full", "exact", _grow(40e-6, 2.0e-9, 2), _space(8, 2))
SDPA = Planted("full_sdpa", "full", "exact", _grow(15e-6, 0.5e-9, 2), _space(16, 1))
WINDOW = Planted("local_window", "local", "restricted", _grow(90e-6, 120e-9, 1), _space(1100, 1), 0.7)
BIGBIRD = Planted(
    "sparse_bigbird", "sparse", "restricted", _grow(150e-6, 260e-9, 1), _space(2200, 1), 0.8
)
LINEAR = Planted("linear_elu", "linear", "different", _grow(60e-6, 45e-9, 1), _space(300, 1), -0.2)
LINFORMER = Planted(
    "lowrank_linformer", "lowrank", "approximate", _grow(70e-6, 60e-9, 1), _space(500, 1), 0.3
)
MEAN = Planted("control_mean", "control", "different", _grow(12e-6, 6e-9, 1), _space(30, 1), 0.0)
ALL = (NAIVE, SDPA, WINDOW, BIGBIRD, LINEAR, LINFORMER, MEAN)

ENVIRONMENT: dict[str, Any] = {
    "id": "e0",
    "cpu": {"model": "Synthetic CPU", "cores": 2},
    "packages": {"torch": "2.13.0"},
    "ceilings": {
        "flops_per_s": {"float32": 1e13},
        "bytes_per_s": {"65536": 1e12, "1048576": 5e11, "67108864": 1e11},
    },
}


def timing(
    session: str,
    effects: np.ndarray,
    time_s: float,
    rng: np.random.Generator,
    *,
    noise: float = 0.02,
    rounds: int = 5,
    samples: int = 3,
) -> Timing:
    """A Timing of one entry whose process i runs at time_s * exp(effects[i]), with noise."""
    processes = []
    for effect in effects:
        draws = time_s * np.exp(effect + noise * rng.standard_normal((rounds, samples)))
        blocks = tuple(tuple(float(x) for x in block) for block in draws)
        processes.append(ProcessTiming(setup_s=2e-4, first_call_s=3 * time_s, calls=4, blocks=blocks))
    return Timing(session, tuple(processes))


def build_run(
    variants: Sequence[Planted] = ALL,
    seq_lens: Sequence[int] = (256, 512, 1024, 2048, 4096),
    *,
    failures: Mapping[tuple[str, int], Failure] | None = None,
    name: str = "planted",
    hardware: str = "cpu-2",
    causal: Sequence[bool] = (False,),
    dtypes: Sequence[str] = ("float32",),
    heads: Sequence[int] = (8,),
    phases: Sequence[Phase] = ("forward",),
    processes: int = 5,
    seed: int = 0,
    warnings: tuple[str, ...] = (),
    environment: Mapping[str, Any] | None = None,
) -> Run:
    """A Run of every combination, with the failures put in place of measurements."""
    rng = np.random.default_rng(seed)
    measurements: list[Measurement] = []
    sessions: dict[str, Session] = {}
    grid = [
        (c, d, h, p, n) for c in causal for d in dtypes for h in heads for p in phases for n in seq_lens
    ]
    for is_causal, dtype, head_count, phase, seq_len in grid:
        w = Workload(1, head_count, seq_len, 64, is_causal, dtype=dtype, phase=phase)
        found = _group(variants, w, failures or {}, hardware, processes, rng)
        measurements += found[0]
        if found[1]:
            sessions[found[1].id] = found[1]
    record = dict(ENVIRONMENT if environment is None else environment)
    return Run(name, tuple(measurements), sessions, {"e0": record}, warnings)


def _group(
    variants: Sequence[Planted],
    w: Workload,
    failures: Mapping[tuple[str, int], Failure],
    hardware: str,
    processes: int,
    rng: np.random.Generator,
) -> tuple[list[Measurement], Session | None]:
    effects = 0.15 * rng.standard_normal(processes)
    shared = {"name": hardware, "threads": 2, "allocator": "default"}
    inputs = {"family": "gaussian", "seed": 0}
    cells = {id(v): Cell(v.name, dict(v.params), w, shared, inputs) for v in variants}
    session_id = f"s-{next(iter(cells.values())).group}" if cells else ""
    found, running = [], []
    for v in variants:
        failed = failures.get((v.name, w.seq_len))
        if failed and not failed[0].has_time:
            found.append(Measurement(cells[id(v)], *failed, family=v.family, computes=v.computes))
            continue
        t = timing(session_id, effects, v.time_s(w), rng)
        running.append((v, t))
        found.append(_measured(v, cells[id(v)], t, failed))
    if not running:
        return found, None
    reference, first = next(((v, t) for v, t in running if v.name == "full_naive"), running[0])
    control = timing(session_id, effects, reference.time_s(w), rng)
    noise = Noise(load=0.4, steal_share=None, involuntary_switches=3, measured_s=1.0)
    group = cells[id(reference)].group
    return found, Session(session_id, group, cells[id(reference)].id, first, control, 0, noise, False)


def _measured(v: Planted, cell: Cell, t: Timing, failed: Failure | None) -> Measurement:
    w = cell.workload
    size = 4 * w.heads * w.seq_len * w.head_dim
    deviations = (
        Deviation("gaussian", 64, 1 - v.skill, 1.0),
        Deviation("captured", reason="captured inputs end at 1024 positions")
        if w.seq_len > 1024
        else Deviation("captured", 64, 0.5 * (1 - v.skill), 0.8),
    )
    power = 1 if v.family not in ("full",) else 2
    return Measurement(
        cell,
        *(failed or (Status.OK, "")),
        timing=t,
        memory=Memory(3 * size, size, v.workspace(w)),
        gate=Gate(1.5e-7, 6e-7, 64),
        deviations=deviations,
        family=v.family,
        computes=v.computes,
        cost=Cost(4 * w.heads * w.head_dim * w.seq_len**power, 4 * size, v.workspace(w), float(power)),
        environment="e0",
    )
