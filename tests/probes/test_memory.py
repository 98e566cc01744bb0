"""The memory probe against planted allocations whose peak is known."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from subquad.probes.memory import allocator_peak, kept, measure, returned_bytes, rss_peak

MIB = 2**20


def spike(size: int) -> None:
    """Hold `size` bytes for a millisecond."""
    held = torch.ones(size, dtype=torch.uint8)
    time.sleep(0.001)
    del held


def nested() -> None:
    outer = torch.ones(8 * MIB, dtype=torch.uint8)
    spike(24 * MIB)
    del outer


def decoy() -> None:
    """Nothing here counts: it is over before the measured call begins."""
    spike(100 * MIB)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: spike(MIB), MIB),
        (lambda: spike(64 * MIB), 64 * MIB),
        (nested, 32 * MIB),
        (lambda: [spike(5 * MIB) for _ in range(10)], 5 * MIB),
    ],
)
def test_peak_of_planted_allocations_is_exact(call: Callable[[], object], expected: int) -> None:
    decoy()
    peak, _ = allocator_peak(call)
    assert abs(peak - expected) <= max(0.01 * expected, 65536)


def test_workspace_is_the_peak_beyond_the_output() -> None:
    def call() -> torch.Tensor:
        scratch = torch.ones(16 * MIB, dtype=torch.uint8)
        return scratch[: 4 * MIB].clone()

    memory = measure(call, input_bytes=123, kept_bytes=1000, device="cpu")
    assert (memory.input_bytes, memory.output_bytes) == (123, 4 * MIB)
    assert memory.workspace_bytes == 16 * MIB + 1000
    assert memory.peak_bytes == 1123 + 20 * MIB


def test_what_a_setup_keeps_is_counted_and_what_it_drops_is_not() -> None:
    def setup() -> torch.Tensor:
        scratch = torch.ones(16 * MIB, dtype=torch.uint8)
        return scratch[: 4 * MIB].clone()

    held, nbytes = kept(setup, "cpu")
    assert held.nbytes == nbytes == 4 * MIB


def test_the_kernel_agrees_with_the_allocator() -> None:
    rss = rss_peak(lambda: spike(200 * MIB))
    assert rss is not None
    assert abs(rss - 200 * MIB) <= 4 * MIB


def test_memray_agrees_with_the_allocator(tmp_path: object) -> None:
    memray = pytest.importorskip("memray", reason="memray is not installed")
    peak, _ = allocator_peak(nested)
    path = f"{tmp_path}/trace.bin"
    with memray.Tracker(path):
        nested()
    records = memray.FileReader(path).get_high_watermark_allocation_records(merge_threads=True)
    assert abs(sum(r.size for r in records) - peak) <= 65536


def test_views_of_one_storage_are_returned_once() -> None:
    x = torch.zeros(1024, dtype=torch.uint8)
    assert returned_bytes((x, [x[:10], None])) == 1024
