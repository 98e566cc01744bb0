"""What a run writes: cells, the parts measured of them, and the rows they become.

A *cell* is what was asked: one variant with its parameters, one workload, one hardware, one family
of inputs. A *part* is what one probe found out about one cell, or why it could not. A *session* is
one interleaved time measurement of several cells against a common reference. A *measurement* is the
row: a cell with all its parts and the status that follows from them.

Schema history (a changed field bumps SCHEMA_VERSION, keeps the old reader and a golden file):
    1  first version
    2  workload.lengths, written where it is not None; a record of schema 1 reads the same
    3  status diverged; parts recall and task; a deviation holds more than two figures. Its first
       journals have no interval of the skill, and an empty `detail` in every score of a task
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from statistics import median
from typing import Any

from subquad.contract import Cost, Workload

SCHEMA_VERSION = 3
READABLE = (1, 2, 3)

Scalar = bool | int | float | str | None


class Status(StrEnum):
    """How a cell ended. Only `ok` and `not_converged` carry a time."""

    OK = "ok"
    NOT_CONVERGED = "not_converged"  # measured, interval wider than asked when the budget was spent
    UNSUPPORTED = "unsupported"  # the variant has no form for this workload
    UNAVAILABLE = "unavailable"  # a package or a device is missing
    INCORRECT = "incorrect"  # further from its definition than rounding explains, or by another kernel
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASHED = "crashed"  # the process died
    ERROR = "error"  # it raised
    SKIPPED_MEMORY = "skipped_memory"  # predicted to pass the memory limit
    SKIPPED_TIME = "skipped_time"  # predicted to pass the time limit
    DIVERGED = "diverged"  # training gave NaN at every learning rate

    @property
    def has_time(self) -> bool:
        return self in (Status.OK, Status.NOT_CONVERGED)


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """16 hex digits that identify a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Cell:
    """One planned measurement. `hardware` and `inputs` hold what identifies them, not their limits."""

    variant: str
    params: Mapping[str, Scalar]
    workload: Workload
    hardware: Mapping[str, Scalar]  # name, threads, allocator
    inputs: Mapping[str, Scalar]  # family, its settings, seed

    @cached_property
    def id(self) -> str:
        return short_hash(self.to_json())

    @cached_property
    def params_json(self) -> str:
        """The parameters, in canonical JSON."""
        return canonical_json(dict(self.params))

    @property
    def is_task(self) -> bool:
        """Whether a model is trained here, instead of a call measured."""
        return "task" in self.inputs

    @cached_property
    def group(self) -> str:
        """Identifies the cells measured against each other: all but the variant in common."""
        shared = {k: v for k, v in self.to_json().items() if k not in ("variant", "params")}
        return short_hash(shared)

    def to_json(self) -> dict[str, Any]:
        """As written; without the axes of later schemas that are not used, so that ids stay."""
        workload = dict(vars(self.workload))  # asdict copies deeply, which takes 50 times as long
        if workload["lengths"] is None:
            del workload["lengths"]
        return {
            "variant": self.variant,
            "params": dict(self.params),
            "workload": workload,
            "hardware": dict(self.hardware),
            "inputs": dict(self.inputs),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        return cls(**{**data, "workload": Workload(**data["workload"])})


@dataclass(frozen=True)
class ProcessTiming:
    """What one process measured of one entry. All samples are kept."""

    setup_s: float
    first_call_s: float
    calls: int  # calls in one sample
    blocks: tuple[tuple[float, ...], ...]  # seconds a call; one inner tuple for each round
    cold_blocks: tuple[tuple[float, ...], ...] = ()  # CUDA: the same with the L2 cache flushed

    @cached_property
    def medians(self) -> array[float]:
        """Of each round's block, in seconds; NaN where nothing was sampled."""
        return array("d", [median(block) if block else math.nan for block in self.blocks])

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProcessTiming:
        blocks = {k: tuple(tuple(b) for b in data.get(k, ())) for k in ("blocks", "cold_blocks")}
        return cls(**{**data, **blocks})


@dataclass(frozen=True)
class Timing:
    """The time of one cell in one session; processes are in the session's order."""

    session: str
    processes: tuple[ProcessTiming, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timing:
        return cls(data["session"], tuple(ProcessTiming.from_json(p) for p in data["processes"]))


@dataclass(frozen=True)
class Noise:
    """How disturbed the machine was while a session ran."""

    load: float  # runnable processes, 1-minute average, at the end
    steal_share: float | None  # CPU time taken by the hypervisor
    involuntary_switches: int  # context switches forced on the measuring processes
    measured_s: float  # wall time of the measuring processes


@dataclass(frozen=True)
class Session:
    """One interleaved time measurement: the reference, entered twice (A/A), and everyone else."""

    id: str
    group: str
    reference: str  # cell id of the entry that ratios are taken against
    reference_timing: Timing
    control_timing: Timing  # the reference again, under another name: their ratio must be 1
    seed: int  # of the order of blocks
    noise: Noise
    noisy: bool  # still disturbed after a second try
    attempt: int = 1

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Session:
        return cls(
            **{
                **data,
                "reference_timing": Timing.from_json(data["reference_timing"]),
                "control_timing": Timing.from_json(data["control_timing"]),
                "noise": Noise(**data["noise"]),
            }
        )


@dataclass(frozen=True)
class Memory:
    """Peak memory of one call, in bytes, beyond what was there before the inputs.

    `workspace_bytes` is the peak beyond inputs and outputs, `kept_bytes` included: what the set-up
    holds (masks, tables, projections). `rss_bytes` is the kernel's own peak (VmHWM) for the same call
    without that, a cross-check that counts pages; `reserved_bytes` is what the CUDA caching allocator
    held.
    """

    input_bytes: int
    output_bytes: int
    workspace_bytes: int
    kept_bytes: int = 0
    rss_bytes: int | None = None
    reserved_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        return self.input_bytes + self.output_bytes + self.workspace_bytes


@dataclass(frozen=True)
class Kernels:
    """The operators that did the work of one call; ATen's without their namespace.

    Where operators of attention ran, or kernels from outside ATen, `ran` is all of those, in the order
    of their first call; else those that took longest. `mismatch` says how they differ from what the
    variant declares; empty where they do not, or where it declares nothing.
    """

    ran: tuple[str, ...]
    mismatch: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Kernels:
        return cls(**{**data, "ran": tuple(data["ran"])})


@dataclass(frozen=True)
class Gate:
    """Oracle error: relative Frobenius error against the variant's own float64 definition.

    Of the output, or of the gradient as one vector, whichever is nearer to failing, on `rows` query
    rows. `tolerance` is twice the error of the same definition computed plainly in the workload's
    dtype, and never below what a few roundings make. `oracle_error` is None where the result is not
    finite.
    """

    oracle_error: float | None
    tolerance: float
    rows: int

    @property
    def passed(self) -> bool:
        return self.oracle_error is not None and self.oracle_error <= self.tolerance


@dataclass(frozen=True)
class Deviation:
    """How far a variant is from full softmax attention on one family of inputs, in float64.

    Relative Frobenius errors over `rows` query rows: `deviation` of the output, `mean_deviation` of the
    mean of the visible values, which looks at no query. `cosine` is the mean over rows of the cosine
    between the two outputs. Over several draws of inputs these three are means over draws, `low`,
    `high` the 95 % interval of `deviation` and `skill_low`, `skill_high` that of `skill`. All that
    follows is of the first draw.

    `dq`, `dk`, `dv` are the errors of the gradients of a random linear function of those rows. Of the
    attention matrix, where the output is a linear function of the values: `map_error`, relative
    Frobenius; `row_sum`, mean, and `negative_share`, of the sum of absolute weights. `kl`, sum of
    p ln(p / full) over the variant's weights p, which leaving keys out keeps finite, and `entropy_gap`,
    variant minus full, are means over rows in nats, there where every row is a distribution.
    `mass_recall` is the weight that full attention gives to the `top` keys that are heaviest in the
    variant, over that of its own `top`, mean over rows.

    For a random method over `seeds` of its draws: `bias` is the deviation of the mean output, corrected
    for the draws being few (0 where no bias is seen), `spread` the scatter around it, both relative.

    Everything is None, with a `reason`, where it does not apply or cannot be had.
    """

    inputs: str
    rows: int = 0
    deviation: float | None = None
    mean_deviation: float | None = None
    reason: str = ""
    draws: int = 1
    low: float | None = None
    high: float | None = None
    skill_low: float | None = None
    skill_high: float | None = None
    cosine: float | None = None
    dq: float | None = None
    dk: float | None = None
    dv: float | None = None
    map_error: float | None = None
    row_sum: float | None = None
    negative_share: float | None = None
    kl: float | None = None
    entropy_gap: float | None = None
    mass_recall: float | None = None
    top: int = 0
    seeds: int = 0
    bias: float | None = None
    spread: float | None = None

    @property
    def skill(self) -> float | None:
        """1 - deviation / mean_deviation: 1 is full attention, 0 no better than averaging."""
        if self.deviation is None or not self.mean_deviation:
            return None
        return 1.0 - self.deviation / self.mean_deviation


@dataclass(frozen=True)
class RecallPoint:
    """Share of stored values that are read back right, with `pairs` key-value pairs in the sequence.

    `low`, `high` are the 95 % interval over `draws` of pairs and `answered` questions. `temperature`
    is what the unit queries were multiplied with, and `gates` what the variant's gates were set to,
    as shares of their range: the best on other draws. `state_bytes` is what a decoder of one head
    keeps after that many positions.
    """

    pairs: int
    accuracy: float
    low: float
    high: float
    answered: int
    draws: int
    temperature: float
    gates: Mapping[str, float] = field(default_factory=dict)
    state_bytes: int | None = None


@dataclass(frozen=True)
class Recall:
    """Recall against the number of pairs; `codes` values to choose from, so chance is 1 / codes."""

    codes: int
    correlation: float  # mean cosine between two keys
    points: tuple[RecallPoint, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recall:
        return cls(**{**data, "points": tuple(RecallPoint(**p) for p in data["points"])})


@dataclass(frozen=True)
class Training:
    """One training of a model: learning rate and seed, and what came of it.

    `validation` is the score that chooses the learning rate; `test` is there for the chosen one
    alone. Both are None with a `reason` where the training diverged.
    """

    lr: float
    seed: int
    steps: int
    wall_s: float
    validation: float | None
    test: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class TaskScore:
    """How well models with this attention learned one task.

    `trainings` hold one test score for each seed at the chosen learning rate, over `asked` questions
    each. `shortcuts` are the scores of answers that need no attention. `solved` is what full
    attention must reach for the task to say anything. `pointing` is the share of questions at which
    the heaviest key of the best head is the one that holds the answer, where that is known.
    """

    task: str
    metric: str
    higher_is_better: bool
    solved: float
    trainings: tuple[Training, ...]
    shortcuts: Mapping[str, float]
    asked: int
    parameters: int
    pointing: float | None = None
    data: str = ""  # sha256 of the data that examples were taken from

    @property
    def scores(self) -> tuple[float, ...]:
        """Test scores, one a seed."""
        return tuple(t.test for t in self.trainings if t.test is not None)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskScore:
        known = {k: v for k, v in data.items() if k != "detail"}
        return cls(**{**known, "trainings": tuple(Training(**t) for t in data["trainings"])})


@dataclass(frozen=True)
class Part:
    """What one probe found of one cell. `value` is None unless the probe got to its end."""

    cell: Cell
    probe: str
    status: Status
    reason: str = ""
    value: Mapping[str, Any] | None = None
    settings: str = ""  # hash of the probe's settings
    code: str = ""  # hash of the sources that measured
    environment: str = ""  # id of the environment record

    @property
    def key(self) -> tuple[str, str]:
        return (self.cell.id, self.probe)

    def same_conditions(self, other: Part) -> bool:
        """Whether a part measured like `other` need not be measured again."""
        mine = (self.settings, self.code, self.environment)
        return mine == (other.settings, other.code, other.environment)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cell": self.cell.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Part:
        return cls(**{**data, "cell": Cell.from_json(data["cell"]), "status": Status(data["status"])})


@dataclass(frozen=True)
class Measurement:
    """A row: one cell, how it ended and why, and whatever was measured of it; absent is None."""

    cell: Cell
    status: Status
    reason: str = ""
    timing: Timing | None = None
    memory: Memory | None = None
    kernels: Kernels | None = None
    gate: Gate | None = None
    deviations: tuple[Deviation, ...] = ()
    recall: Recall | None = None
    score: TaskScore | None = None
    family: str = ""
    computes: str = ""
    cost: Cost | None = None
    environment: str = ""


@dataclass(frozen=True)
class Run:
    """Everything under results/<name>, read back.

    `environments` maps the id of an environment record to it; its `ceilings` hold what the machine
    was measured to reach: `flops_per_s` by dtype and `bytes_per_s` by working-set size in bytes.
    """

    name: str
    measurements: tuple[Measurement, ...]
    sessions: Mapping[str, Session] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    baseline: str = "full_naive"

    @cached_property
    def derived(self) -> dict[str, Any]:
        """What analysis made of this run, kept so that it is made once."""
        return {}

    def without_tasks(self) -> Run:
        """The run without the cells of tasks: what time and memory are asked of."""
        kept = tuple(m for m in self.measurements if not m.cell.is_task)
        return replace(self, measurements=kept)
