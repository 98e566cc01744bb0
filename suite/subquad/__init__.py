"""Efficient-attention benchmarks: time, memory and accuracy, with intervals.

The names a plugin needs are here; they are imported when they are first used, since that takes torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subquad.contract import Cost, Limit, Supports, TensorSpec, Variant, Workload

__all__ = ["Cost", "Limit", "Supports", "TensorSpec", "Variant", "Workload"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from subquad import contract

    return getattr(contract, name)
