"""The stop rule and what happens when an entry fails, on processes that the test makes up."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from subquad.isolate.pool import Outcome
from subquad.probes.timing import ProcessResult
from subquad.record import ProcessTiming, Status
from subquad.replicate import CONTROL, REFERENCE, ReferenceFailed, replicate
from subquad.settings import TimeSettings


class Machine:
    """Processes whose times are known: a common lognormal effect, and noise of each entry."""

    def __init__(self, times: Sequence[float], noise: float, seed: int = 0) -> None:
        self.times = times
        self.noise = noise
        self.random = random.Random(seed)
        self.clock = 0.0
        self.processes = 0
        self.faults: dict[int, Outcome] = {}

    def run(self, number: int, playing: Sequence[int]) -> Outcome:
        self.clock += 1.0
        for position, index in enumerate(playing):
            if index in self.faults:
                fault = self.faults[index]
                return Outcome(fault.status, fault.reason, entry=position)
        self.processes += 1
        common = self.random.lognormvariate(0, 0.15)
        timings = [
            ProcessTiming(0.1, 0.1, 1, ((self.times[i] * common * self._noise(),),)) for i in playing
        ]
        return Outcome(value=ProcessResult(tuple(timings), involuntary_switches=2))

    def _noise(self) -> float:
        return self.random.lognormvariate(0, self.noise)


def settings(**changes: float) -> TimeSettings:
    values = {"target": 0.05, "min_processes": 5, "max_processes": 20, "budget_s": 1000.0, **changes}
    return TimeSettings(**values)  # type: ignore[arg-type]


def test_quiet_ratios_stop_at_the_least_number_of_processes() -> None:
    machine = Machine([1.0, 1.0, 3.0], noise=0.005)
    found = replicate(3, machine.run, settings(), "s", lambda: machine.clock)
    assert machine.processes == 5
    assert found.unsure == {}
    assert found.involuntary_switches == 10
    assert {len(t.processes) for t in found.timings.values()} == {5}


def test_noisy_ratios_get_more_processes() -> None:
    machine = Machine([1.0, 1.0, 3.0], noise=0.06)
    found = replicate(3, machine.run, settings(), "s", lambda: machine.clock)
    assert 5 < machine.processes <= 20
    assert found.unsure == {} or machine.processes == 20


def test_an_erratic_reference_does_not_hold_up_a_time_that_is_known() -> None:
    machine = Machine([1.0, 1.0, 3.0], noise=0.0)
    steady = machine.run

    def run(number: int, playing: Sequence[int]) -> Outcome:
        outcome = steady(number, playing)
        timings = [ProcessTiming(0.1, 0.1, 1, ((3.0,),)) for _ in playing]
        timings[:2] = [ProcessTiming(0.1, 0.1, 1, ((1.0 + 0.5 * (number % 2),),)) for _ in range(2)]
        outcome.value = ProcessResult(tuple(timings), 0)
        return outcome

    found = replicate(3, run, settings(), "s", lambda: machine.clock)
    assert (machine.processes, found.unsure) == (5, {})


def test_the_budget_ends_it_and_says_who_is_unsure() -> None:
    machine = Machine([1.0, 1.0, 3.0], noise=0.5)
    found = replicate(3, machine.run, settings(budget_s=8.0), "s", lambda: machine.clock)
    assert 3 <= machine.processes <= 8
    assert set(found.unsure) == {CONTROL, 2}


def test_a_small_budget_still_gives_an_interval() -> None:
    for budget_s, processes in ((0.001, 3), (1.0, 4), (2.0, 5)):
        machine = Machine([1.0, 1.0], noise=0.5)
        replicate(2, machine.run, settings(budget_s=budget_s), "s", lambda m=machine: m.clock)
        assert machine.processes == processes


def test_an_entry_that_fails_leaves_alone() -> None:
    machine = Machine([1.0, 1.0, 3.0, 4.0], noise=0.005)
    machine.faults[2] = Outcome(Status.CRASHED, "killed")
    found = replicate(4, machine.run, settings(), "s", lambda: machine.clock)
    assert found.failures == {2: (Status.CRASHED, "killed")}
    assert set(found.timings) == {REFERENCE, CONTROL, 3}


@pytest.mark.parametrize("index", [REFERENCE, CONTROL])
def test_a_reference_that_fails_is_told(index: int) -> None:
    machine = Machine([1.0, 1.0, 3.0], noise=0.005)
    machine.faults[index] = Outcome(Status.OOM, "too large")
    with pytest.raises(ReferenceFailed, match="too large"):
        replicate(3, machine.run, settings(), "s", lambda: machine.clock)
