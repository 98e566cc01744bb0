"""The rounds of the time probe, on a clock that the test drives."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from subquad.probes.timing import MAX_SAMPLES, Entry, run_rounds, warmed_up
from subquad.settings import TimeSettings

SETTINGS = TimeSettings(
    rounds=6, sample_s=0.001, block_s=0.008, entry_s=0.4, warmup_s=0.03, max_processes=9
)


class FakeClock:
    """Every call costs what it says: calls return seconds instead of taking them."""

    def __init__(self) -> None:
        self.calls = 0

    def once(self, call: Callable[[], float]) -> float:
        return self.sample(call, 1)

    def sample(self, call: Callable[[], float], calls: int) -> float:
        self.calls += calls
        return call()

    def cold_sample(self, call: Callable[[], float]) -> float | None:
        return None


class Silent:
    """A Reporter that remembers whose turn it was."""

    def __init__(self) -> None:
        self.order: list[int] = []

    def step(self, label: str, limit_s: float, entry: int = -1) -> None: ...

    def entry(self, index: int) -> None:
        self.order.append(index)

    def part(self, name: str, value: object) -> None: ...


def entry(index: int, call_s: float, clock: FakeClock | None = None) -> Entry:
    return warmed_up(index, lambda: call_s, 0.0, call_s, clock or FakeClock(), SETTINGS)


@pytest.mark.parametrize("call_s", [1e-6, 3e-5, 9e-4, 2e-3, 0.2])
def test_a_sample_lasts_at_least_sample_s(call_s: float) -> None:
    made = entry(0, call_s)
    assert made.calls * call_s >= SETTINGS.sample_s * 0.999
    assert 1 <= made.samples <= MAX_SAMPLES


def test_a_slow_first_call_is_warm_up_enough() -> None:
    clock = FakeClock()
    entry(0, 2.0, clock)
    assert clock.calls == 0


def test_every_round_has_every_entry_once_in_another_order() -> None:
    report = Silent()
    entries = [entry(i, 0.001) for i in range(5)]
    run_rounds(entries, FakeClock(), random.Random(1), SETTINGS, report)
    rounds = [tuple(report.order[i : i + 5]) for i in range(0, len(report.order), 5)]
    assert len(rounds) == SETTINGS.rounds
    assert all(sorted(r) == [0, 1, 2, 3, 4] for r in rounds)
    assert len(set(rounds)) > 1, "the order must be reshuffled"


def test_the_order_follows_from_its_seed() -> None:
    orders = []
    for seed in (7, 7, 8):
        report = Silent()
        entries = [entry(i, 0.001) for i in range(6)]
        run_rounds(entries, FakeClock(), random.Random(seed), SETTINGS, report)
        orders.append(report.order)
    assert orders[0] == orders[1] != orders[2]


def test_slow_entries_leave_early_and_everyone_has_a_block() -> None:
    entries = [entry(0, 0.001), entry(1, 0.1), entry(2, 5.0)]
    run_rounds(entries, FakeClock(), random.Random(0), SETTINGS, Silent())
    assert [len(e.blocks) for e in entries] == [6, 4, 1]


def test_all_samples_are_kept() -> None:
    made = entry(0, 0.001)
    run_rounds([made], FakeClock(), random.Random(0), SETTINGS, Silent())
    timing = made.timing()
    assert [len(block) for block in timing.blocks] == [made.samples] * SETTINGS.rounds
    assert timing.cold_blocks == ()
