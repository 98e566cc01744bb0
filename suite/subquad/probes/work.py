"""How many operations a call makes, counted and not timed: the same number on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class WorkCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`work`: FLOPs of matrix products and attention kernels, and one for each element written.

    Views cost nothing. What torch.compile made is not seen: `Variant.compiled` says so.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in ATTENTION:
            self.work += ATTENTION[packet](*args)
        elif packet in flop_registry:
            self.work += int(flop_registry[packet](*args, **kwargs, out_val=out))
        elif not func.is_view:
            self.work += sum(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))
        return out


def _attention_flops(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> int:
    """The whole rectangle, 4 FLOPs a pair and dimension."""
    return 4 * math.prod(q.shape) * k.shape[-2]


# The kernel of a CPU is not among those that torch knows the FLOPs of.
ATTENTION: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
