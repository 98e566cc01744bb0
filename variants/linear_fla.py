"""Kernels of flash-linear-attention (CUDA only), for definitions that other files here have.

Dimensions: B batch, H heads, L seq_len, D head dim. The kernels take [B, L, H, D] and gates as
logarithms [B, L, H, ...]; tensors go in and out as transposed views, of which they make copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from subquad.contract import AttentionFn, Limit, Supports, Workload
from subquad.variants.linear_delta import LinearGatedDelta, unit
from subquad.variants.linear_gla import LinearGla
from subquad.variants.linear_retention import FadingVariant, LinearRetention

# The first version whose kernels take [B, L, H, D] unasked; later ones know no other layout.
PACKAGE = "flash-linear-attention>=0.2.1"


@dataclass(frozen=True)
class FlaVariant(FadingVariant):
    """What the adapters share. The chunks are the kernels' own: `chunk` must stay as it is.

    The kernels sum in float32 and take products in the tensor cores' formats.
    """

    supports: ClassVar[Supports] = Supports(
        dtypes=("bfloat16", "float16"), devices=("cuda",), causal=(True,), grouped=False, cross=False
    )
    requires: ClassVar[tuple[str, ...]] = (PACKAGE,)

    chunk: int = 64

    def workspace_bytes(self, w: Workload) -> int:
        """States between chunks; q, k, v and the output in the kernels' layout; gates in float32."""
        states = -(-w.seq_len // self.chunk) * self.state_bytes(w)
        copies = w.batch * w.heads * w.seq_len * w.head_dim * (4 * w.element_bytes + 4)
        return (2 if w.phase == "forward_backward" else 1) * (states + copies)

    def unmet(self, w: Workload) -> list[str]:
        own = [] if self.chunk == 64 else [f"chunk={self.chunk} (the kernels have chunks of 64)"]
        return super().unmet(w) + own

    def limits(self) -> list[Limit]:
        return []


@dataclass(frozen=True)
class LinearFlaRetention(FlaVariant, LinearRetention):
    """linear_retention by fla.ops.retention.chunk_retention; the decays are the paper's only."""

    name: ClassVar[str] = "linear_fla_retention"

    def prepare(self, w: Workload) -> AttentionFn:
        from fla.ops.retention import chunk_retention

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = chunk_retention(*by_position(q, k, v))[0]
            return out.transpose(1, 2)

        return attend

    def unmet(self, w: Workload) -> list[str]:
        own = [] if self.gamma is None else [f"gamma={self.gamma} (the kernel has its own decays)"]
        return super().unmet(w) + own


@dataclass(frozen=True)
class LinearFlaGla(FlaVariant, LinearGla):
    """linear_gla by fla.ops.gla.chunk_gla."""

    name: ClassVar[str] = "linear_fla_gla"

    def prepare(self, w: Workload) -> AttentionFn:
        from fla.ops.gla import chunk_gla

        def attend(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
            out: Tensor = chunk_gla(*by_position(q, k, v, alpha.float().log()))[0]
            return out.transpose(1, 2)

        return attend


@dataclass(frozen=True)
class LinearFlaGatedDelta(FlaVariant, LinearGatedDelta):
    """linear_gated_delta by fla.ops.gated_delta_rule.chunk_gated_delta_rule.

    The keys are divided by their lengths before the kernel, whose own way to do it adds a constant.
    """

    name: ClassVar[str] = "linear_fla_gated_delta"

    def prepare(self, w: Workload) -> AttentionFn:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        def attend(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, alpha: Tensor) -> Tensor:
            keys = unit(k.float()).to(k.dtype)
            inputs = by_position(q, keys, v, alpha.float().log(), beta)
            out: Tensor = chunk_gated_delta_rule(*inputs)[0]
            return out.transpose(1, 2)

        return attend


def by_position(*tensors: Tensor) -> list[Tensor]:
    """[B, H, L, ...] as views [B, L, H, ...]."""
    return [x.transpose(1, 2) for x in tensors]
