"""How sure a time or a ratio of times is, when the unit of replication is the process.

Samples of one process share its memory layout, page placement and neighbours: they are not
replicates. So every sample is first reduced to its process: median per block, median over blocks. A
ratio is formed in each round, where both blocks meet the same machine, and its median over the rounds
is the process's: on a machine that is disturbed for tenths of a second, ratios scatter half as much as
those of two medians over all rounds. Intervals are Student t intervals over processes, on logarithms.

Who adds processes until an interval is narrow stops too often where the scatter happens to look small:
a plain 95 % interval then covers 92 % at worst (`subquad selftest`; the effect is Anscombe's, 1953,
doi:10.1111/j.2517-6161.1953.tb00121.x). So the quantile is taken at a share of the error that is asked
for (`spent`), and a 95 % interval covers 94 to 96.5 %, whenever the stop rule ended the session.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import special

from subquad.record import Timing

Floats = NDArray[np.float64]

FIRST_LOOK = 5  # processes after which the stop rule looks for the first time, by default


def spent(processes: int) -> float:
    """The share of the error that an interval may spend after so many processes.

    A session that ended at the first look was most often a quiet one; one that went on was looked at
    again and again. Both shares are from simulation: they keep the error at 3.5 to 6 %.
    """
    return 0.9 if processes <= FIRST_LOOK else 0.7


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
    medians = [median(block) for block in blocks if block]  # numpy's costs ten times that on few
    return median(medians) if medians else None


def median_by_process(timing: Timing) -> dict[int, float]:
    """Median seconds of every process that has a block, by its index in the session."""
    sampled = {i: [m for m in p.medians if m == m] for i, p in enumerate(timing.processes)}
    return {i: median(medians) for i, medians in sampled.items() if medians}


def ratio_by_process(numerator: Timing, denominator: Timing) -> dict[int, float]:
    """Median over the rounds of the ratio of blocks, for every process in which both have one.

    Blocks of one index are of one round; who leaves the rounds early has fewer.
    """
    found = {}
    for i, (above, below) in enumerate(zip(numerator.processes, denominator.processes, strict=False)):
        rounds = zip(above.medians, below.medians, strict=False)
        ratios = [a / b for a, b in rounds if a == a and b == b]
        if ratios:
            found[i] = median(ratios)
    return found


def process_medians(timing: Timing) -> Floats:
    """Median seconds of each process that has a block, in the session's order."""
    return np.array(list(median_by_process(timing).values()), dtype=np.float64)


@lru_cache(maxsize=4096)
def t_above(share: float, df: float) -> float:
    """The value that Student's t exceeds with that probability."""
    return -float(special.stdtrit(df, share))  # scipy.stats takes a hundred times as long for it


@dataclass(frozen=True)
class LogMean:
    """A mean of logarithms with its uncertainty: of a time, or of a ratio of two times.

    `error` is the standard error on `df` degrees of freedom; None where there is one process only.
    """

    centre: float
    error: float | None
    df: float
    processes: int
    paired: bool = True  # a ratio within processes; otherwise between the processes of two sessions

    def interval(self, level: float = 0.95) -> Interval:
        """Back on the scale of times or ratios.

        Raises:
            ValueError: a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        estimate = math.exp(self.centre)
        if self.error is None:
            return Interval(estimate, None, None, self.processes)
        half = t_above(spent(self.processes) * (1 - level) / 2, self.df) * self.error
        low, high = math.exp(self.centre - half), math.exp(self.centre + half)
        return Interval(estimate, low, high, self.processes)

    def p_above(self, value: float) -> float | None:
        """One-sided p-value against `the truth is at most value`; None where it is not determined."""
        if self.error is None:
            return None
        distance = self.centre - math.log(value)
        if self.error == 0.0:
            return 0.0 if distance > 0 else 1.0
        return min(1.0, float(special.stdtr(self.df, -distance / self.error)) / spent(self.processes))

    def p_below(self, value: float) -> float | None:
        """One-sided p-value against `the truth is at least value`; None where it is not determined."""
        return LogMean(-self.centre, self.error, self.df, self.processes).p_above(1 / value)


def log_mean(values: Floats) -> LogMean | None:
    """Of positive values, one a process; None for no value.

    Raises:
        ValueError: a value that is not positive.
    """
    found = values.tolist()
    if not found:
        return None
    if not min(found) > 0:
        raise ValueError(f"times must be > 0, got {min(found)}")
    logs, n = [math.log(value) for value in found], len(found)
    centre = math.fsum(logs) / n  # numpy takes ten times as long for so few
    if n == 1:
        return LogMean(centre, None, 0, 1)
    variance = math.fsum((value - centre) ** 2 for value in logs) / (n - 1)
    return LogMean(centre, math.sqrt(variance / n), n - 1, n)


def log_interval(values: Floats, level: float = 0.95) -> Interval | None:
    """Geometric mean of positive values, one a process, with its t interval; None for no value.

    Raises:
        ValueError: a value that is not positive, or a level outside (0, 1).
    """
    mean = log_mean(values)
    return mean.interval(level) if mean else None


def time_interval(timing: Timing, level: float = 0.95) -> Interval | None:
    """Seconds a call: geometric mean over processes; None where no process has a block."""
    return log_interval(process_medians(timing), level)


def ratio(numerator: Timing, denominator: Timing) -> LogMean | None:
    """Ratio of two times; None where nothing can be compared.

    Of one session: paired within rounds, so that what slows a process, or a part of it, slows both and
    cancels; a process in which either has no block is left out. Of two sessions: by Welch, which is
    blind to what changed on the machine between them.
    """
    if numerator.session == denominator.session:
        paired = list(ratio_by_process(numerator, denominator).values())
        return log_mean(np.array(paired, dtype=np.float64))
    first, second = (log_mean(process_medians(t)) for t in (numerator, denominator))
    return difference(first, second) if first and second else None


def difference(first: LogMean, second: LogMean) -> LogMean:
    """Ratio of two independent means, with Welch's degrees of freedom."""
    centre = first.centre - second.centre
    processes = min(first.processes, second.processes)
    if first.error is None or second.error is None:
        return LogMean(centre, None, 0, processes, paired=False)
    one, other = first.error**2, second.error**2
    parts = one**2 / first.df + other**2 / second.df
    df = (one + other) ** 2 / parts if parts else first.df + second.df
    return LogMean(centre, math.sqrt(one + other), df, processes, paired=False)


def mean_of(means: Sequence[LogMean]) -> LogMean | None:
    """Mean of independent means, such as one variant's ratios at several workloads.

    The error is that of their scatter, which holds what each session did to all of its processes, or
    what follows from their own errors where that is larger; None for fewer than three.
    """
    n = len(means)
    if n < 3:
        return None
    centres = np.array([m.centre for m in means], dtype=np.float64)
    scattered = float(centres.std(ddof=1)) / math.sqrt(n)
    own = math.sqrt(sum(m.error**2 for m in means if m.error is not None)) / n
    return LogMean(float(centres.mean()), max(scattered, own), n - 1, n, all(m.paired for m in means))


def ratio_interval(numerator: Timing, denominator: Timing, level: float = 0.95) -> Interval | None:
    """Ratio of two times of one session, paired within rounds; None where no process has both.

    Raises:
        ValueError: the two come from different sessions.
    """
    if numerator.session != denominator.session:
        raise ValueError(
            "a ratio needs two timings of one session, "
            f"got {numerator.session!r} and {denominator.session!r}"
        )
    found = ratio(numerator, denominator)
    return found.interval(level) if found else None


def half_width(interval: Interval) -> float | None:
    """Relative half-width sqrt(high / low) - 1; None where the interval is not determined."""
    if interval.low is None or interval.high is None:
        return None
    return math.sqrt(interval.high / interval.low) - 1


def detectable(mean: LogMean, power: float = 0.9, level: float = 0.95) -> float | None:
    """The smallest relative difference that a single comparison like this finds `power` of the time."""
    if mean.error is None:
        return None
    steps = t_above(spent(mean.processes) * (1 - level) / 2, mean.df) + t_above(1 - power, mean.df)
    return math.expm1(steps * mean.error)
