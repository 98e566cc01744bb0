"""Peak memory of one call, split into inputs, outputs and workspace.

CPU: the running sum of every allocation torch's allocator reports, exact to the byte; the kernel's
own peak (VmHWM, reset through /proc/self/clear_refs) stands beside it as a cross-check. CUDA: the
caching allocator's peaks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from subquad.probes.subject import Call
from subquad.procfs import status_bytes
from subquad.record import Memory

T = TypeVar("T")


def measure(call: Call, input_bytes: int, kept_bytes: int, device: str) -> Memory:
    """Peak memory of `call`, whose inputs are allocated and which ran once before."""
    gc.collect()
    if device == "cuda":
        return _cuda(call, input_bytes, kept_bytes)
    peak, output = allocator_peak(call)
    return Memory(
        input_bytes=input_bytes,
        output_bytes=output,
        workspace_bytes=kept_bytes + max(0, peak - output),
        kept_bytes=kept_bytes,
        rss_bytes=rss_peak(call),
    )


def kept(setup: Callable[[], T], device: str) -> tuple[T, int]:
    """What `setup` returns, and the bytes it leaves allocated."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        result = setup()
        gc.collect()
        return result, max(0, torch.cuda.memory_allocated() - before)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = setup()
        gc.collect()
    return result, max(0, sum(_changes(profile)))


def allocator_peak(call: Call) -> tuple[int, int]:
    """Highest sum of torch's CPU allocations during `call`, and the bytes of what it returns."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = call()
    return max(accumulate(_changes(profile), initial=0)), returned_bytes(result)


def _changes(profile: torch.autograd.profiler.profile) -> list[int]:
    """Bytes of every allocation (positive) and release (negative), in order.

    The autograd profiler is entered without torch.profiler's front end, whose first use imports for
    more than a second; the events are the same.
    """
    assert profile.kineto_results is not None
    events: list[Any] = profile.kineto_results.events()
    return [e.nbytes() for e in events if e.name() == "[memory]"]


def rss_peak(call: Call) -> int | None:
    """Growth of the resident set to its peak during `call`; None where the kernel cannot reset it."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:  # not permitted in some containers: the cross-check is left out
        return None
    before = status_bytes("VmRSS")
    call()
    return max(0, status_bytes("VmHWM") - before)


def returned_bytes(result: Any) -> int:
    """Bytes of the distinct storages in a tensor or a nest of tuples of tensors."""
    storages = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, tuple | list):
            for item in value:
                visit(item)

    visit(result)
    return sum(storages.values())


def _cuda(call: Call, input_bytes: int, kept_bytes: int) -> Memory:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    output = returned_bytes(result)
    return Memory(
        input_bytes=input_bytes,
        output_bytes=output,
        workspace_bytes=kept_bytes + max(0, torch.cuda.max_memory_allocated() - before - output),
        kept_bytes=kept_bytes,
        reserved_bytes=torch.cuda.max_memory_reserved(),
    )
