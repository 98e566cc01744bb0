"""How sure a time or a ratio of times is, when the unit of replication is the process.

Samples of one process share its memory layout, page placement and neighbours: they are not
replicates. So every sample is first reduced to its process: median per block, median over blocks.
Intervals are Student t intervals over processes, on logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from subquad.record import Timing

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; `low` and `high` are None where it is not determined."""

    estimate: float
    low: float | None
    high: float | None
    processes: int

    @property
    def determined(self) -> bool:
        return self.low is not None and self.high is not None

    def excludes(self, value: float) -> bool:
        """Whether the interval is determined and leaves `value` out."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def median_of_blocks(blocks: Iterable[tuple[float, ...]]) -> float | None:
    """Median over the blocks of their medians, in seconds; None where nothing was sampled."""
    medians = [float(np.median(block)) for block in blocks if block]
    return float(np.median(medians)) if medians else None


def median_by_process(timing: Timing) -> dict[int, float]:
    """Median seconds of every process that has a block, by its index in the session."""
    found = {i: median_of_blocks(p.blocks) for i, p in enumerate(timing.processes)}
    return {i: median for i, median in found.items() if median is not None}


def process_medians(timing: Timing) -> Floats:
    """Median seconds of each process that has a block, in the session's order."""
    return np.array(list(median_by_process(timing).values()), dtype=np.float64)


def log_interval(values: Floats, level: float = 0.95) -> Interval | None:
    """Geometric mean of positive values, one a process, with its t interval; None for no value.

    Raises:
        ValueError: a value that is not positive, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if values.size == 0:
        return None
    if not np.all(values > 0):
        raise ValueError(f"times must be > 0, got {values.min()}")
    logs = np.log(values)
    centre, n = float(logs.mean()), int(logs.size)
    if n == 1:
        return Interval(math.exp(centre), None, None, 1)
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(logs.std(ddof=1)) / math.sqrt(n)
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half), n)


def time_interval(timing: Timing, level: float = 0.95) -> Interval | None:
    """Seconds a call: geometric mean over processes; None where no process has a block."""
    return log_interval(process_medians(timing), level)


def ratio_interval(numerator: Timing, denominator: Timing, level: float = 0.95) -> Interval | None:
    """Ratio of two times of one session, paired within processes; None where no process has both.

    What slows a whole process slows both and cancels. A process in which either has no block is left
    out of both.

    Raises:
        ValueError: the two come from different sessions.
    """
    if numerator.session != denominator.session:
        raise ValueError(
            "a ratio needs two timings of one session, "
            f"got {numerator.session!r} and {denominator.session!r}"
        )
    above, below = median_by_process(numerator), median_by_process(denominator)
    both = [i for i in above if i in below]
    return log_interval(np.array([above[i] / below[i] for i in both], dtype=np.float64), level)


def half_width(interval: Interval) -> float | None:
    """Relative half-width sqrt(high / low) - 1; None where the interval is not determined."""
    if interval.low is None or interval.high is None:
        return None
    return math.sqrt(interval.high / interval.low) - 1
