"""Replicate a time measurement over processes until it is sure enough: the stop rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from subquad.analyze.intervals import half_width, ratio_interval, time_interval
from subquad.isolate.pool import Outcome
from subquad.probes.timing import ProcessResult
from subquad.record import ProcessTiming, Status, Timing
from subquad.settings import TimeSettings

LEAST = 3  # processes, for an interval that means something
PATIENCE = 4  # budgets that the least number of processes may take
REFERENCE, CONTROL = 0, 1  # the first two entries are the same variant


class ReferenceFailed(Exception):
    """The entry that everything is measured against cannot be timed."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass
class Replicates:
    """What was measured of every entry, by its index."""

    timings: dict[int, Timing]
    failures: dict[int, tuple[Status, str]] = field(default_factory=dict)
    unsure: dict[int, float | None] = field(default_factory=dict)  # relative half-width too wide
    involuntary_switches: int = 0
    wall_s: float = 0.0


RunProcess = Callable[[int, Sequence[int]], Outcome]
"""Runs process number n with the entries of these indices; the value is a ProcessResult."""


def replicate(
    entries: int,
    run_process: RunProcess,
    settings: TimeSettings,
    session: str,
    now: Callable[[], float] = time.monotonic,
) -> Replicates:
    """Run processes until every time, or its ratio to the reference, is within `settings.target`.

    An entry that fails leaves, and its process is run again without it.

    Raises:
        ReferenceFailed: the reference itself failed.
    """
    playing = list(range(entries))
    done: dict[int, list[ProcessTiming]] = {i: [] for i in playing}
    found = Replicates({})
    started = now()
    processes = 0
    while True:
        outcome = run_process(processes, playing)
        if not outcome.ok:
            for index in _culprits(outcome, playing):
                playing.remove(index)
                found.failures[index] = (outcome.status, outcome.reason)
            continue
        result: ProcessResult = outcome.value
        for index, timing in zip(playing, result.timings, strict=True):
            done[index].append(timing)
        found.involuntary_switches += result.involuntary_switches
        processes += 1
        timings = {i: Timing(session, tuple(done[i])) for i in playing}
        spent = now() - started
        expected = spent * (processes + 1) / processes  # with one more process
        if processes < LEAST or (
            processes < settings.min_processes and expected <= PATIENCE * settings.budget_s
        ):
            continue
        found.unsure = unsure(timings, settings.target)
        over = expected > settings.budget_s or processes >= settings.max_processes
        if over or not found.unsure:
            found.timings, found.wall_s = timings, spent
            return found


def unsure(timings: dict[int, Timing], target: float) -> dict[int, float | None]:
    """Entries of which neither the time nor the ratio to the reference is known to `target`.

    The ratio is the better known where whole processes differ, the time where the reference itself is
    erratic. Told is the smaller relative half-width; None where neither is determined.
    """
    wide = {}
    for index, timing in timings.items():
        if index == REFERENCE:
            continue
        intervals = (ratio_interval(timing, timings[REFERENCE]), time_interval(timing))
        widths = [half_width(interval) for interval in intervals if interval]
        width = min((w for w in widths if w is not None), default=None)
        if width is None or width > target:
            wide[index] = width
    return wide


def _culprits(outcome: Outcome, playing: Sequence[int]) -> list[int]:
    """Who leaves after a failed process; everyone, where it was nobody's work in particular."""
    position = outcome.entry
    culprits = [playing[position]] if 0 <= position < len(playing) else list(playing)
    if REFERENCE in culprits or CONTROL in culprits:
        raise ReferenceFailed(outcome.status, outcome.reason)
    return culprits
