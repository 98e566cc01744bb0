"""How a call is timed: the performance counter on a CPU, events on CUDA."""

from __future__ import annotations

import time
from typing import Protocol

import torch
from torch import Tensor

from subquad.probes.subject import Call


class Clock(Protocol):
    """Times calls on one device."""

    def once(self, call: Call) -> float:
        """Seconds of one call, from before it until its result is there."""

    def sample(self, call: Call, calls: int) -> float:
        """Seconds a call, over `calls` calls back to back."""

    def cold_sample(self, call: Call) -> float | None:
        """Seconds of one call with the last-level cache flushed; None where that is not done."""


class CpuClock:
    """time.perf_counter; calls on a CPU return when they are done."""

    def once(self, call: Call) -> float:
        return self.sample(call, 1)

    def sample(self, call: Call, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls

    def cold_sample(self, call: Call) -> float | None:
        return None


class CudaClock:
    """CUDA events around the calls; the cold figure writes a buffer of twice the L2 cache first."""

    def __init__(self) -> None:
        l2_bytes = torch.cuda.get_device_properties().L2_cache_size
        self._flush: Tensor = torch.empty(2 * l2_bytes, dtype=torch.int8, device="cuda")

    def once(self, call: Call) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def sample(self, call: Call, calls: int) -> float:
        return self._events(call, calls)

    def cold_sample(self, call: Call) -> float | None:
        self._flush.zero_()
        return self._events(call, 1)

    def _events(self, call: Call, calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        elapsed_ms: float = start.elapsed_time(end)
        return elapsed_ms / 1000 / calls


def clock_for(device: str) -> Clock:
    return CudaClock() if device == "cuda" else CpuClock()
