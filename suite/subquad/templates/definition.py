"""Attention without softmax, by a state of fixed size: a start for a definition of your own.

Dimensions: B batch, H query heads, Hk key/value heads, L seq_len, Lk key length, D head dim, R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    OracleFn,
    Supports,
    Variant,
    Workload,
    at_least,
    causal_mask,
    io_bytes,
    phase_flops,
    repeat_heads,
)


def features(x: Tensor) -> Tensor:
    """phi(x) > 0, elementwise, by the implementation and the definition alike."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


@dataclass(frozen=True)
class LinearMine(Variant):
    """out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j) over all keys j; causal: j <= i."""

    name: ClassVar[str] = "linear_mine"
    family: ClassVar[str] = "linear"
    # "approximate" estimates softmax attention, "different" is another function; `oracle` defines it.
    computes: ClassVar[Computes] = "different"
    # Where the definition comes from: authors, year, title, arXiv id, section.
    source: ClassVar[str] = "sums of positive features, to be replaced by your source"
    # What it cannot run; a refusal that depends on more than that goes into `unmet`.
    supports: ClassVar[Supports] = Supports(cross=False)

    # Parameters are fields with defaults; each is an option of `subquad run`.
    chunk: int = 128

    def __post_init__(self) -> None:
        at_least("chunk", self.chunk, 1)

    def oracle(self, w: Workload) -> OracleFn:
        """The definition, for the query rows `rows`, in any dtype: change it first.

        It is written to be read and may take O(R Lk). Conformance holds `prepare` against it.
        """

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            k, v = repeat_heads(features(k), w.heads), repeat_heads(v, w.heads)
            weights = features(q[:, :, rows]) @ k.transpose(-2, -1)
            if w.causal:
                weights = weights * causal_mask(w, rows)
            return weights @ v / weights.sum(-1, keepdim=True)

        return attend

    def prepare(self, w: Workload) -> AttentionFn:
        """Set-up stands here; only the function that it returns is timed.

        Causal: chunk after chunk, the past as a D x (D + 1) state: O(L D (D + chunk)) in time.
        """
        dtype = torch.promote_types(w.torch_dtype, torch.float32)  # long sums need it
        chunk = self.chunk if w.causal else w.seq_len

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            queries = features(q.to(dtype))
            keys = repeat_heads(features(k.to(dtype)), w.heads)
            values = repeat_heads(v.to(dtype), w.heads)
            values = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)  # and the total
            if not w.causal:
                return divided(queries @ (keys.transpose(-2, -1) @ values)).to(q.dtype)
            state, blocks = values.new_zeros(*q.shape[:2], w.head_dim, w.head_dim + 1), []
            for start in range(0, w.seq_len, chunk):
                here = slice(start, start + chunk)
                a, b, c = queries[:, :, here], keys[:, :, here], values[:, :, here]
                blocks.append(divided((a @ b.transpose(-2, -1)).tril() @ c + a @ state))
                state = state + b.transpose(-2, -1) @ c
            return torch.cat(blocks, dim=2).to(q.dtype)

        def divided(sums: Tensor) -> Tensor:
            return sums[..., :-1] / sums[..., -1:]

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Peak beyond inputs and outputs: features, values and sums; a backward pass keeps them all."""
        rows = w.batch * w.heads * w.seq_len * (w.head_dim + 1) * max(4, w.element_bytes)
        return 5 * rows if w.phase == "forward" else 15 * rows

    def cost(self, w: Workload) -> Cost:
        """What the definition must do: a multiply-add is 2 FLOPs; `exponent` is the growth in L."""
        forward = 4 * w.batch * w.heads * w.seq_len * w.head_dim * (w.head_dim + 1)
        return Cost(
            flops=phase_flops(w, forward),
            bytes=io_bytes(w),
            workspace_bytes=self.workspace_bytes(w),
            exponent=1.0,
        )

    def limits(self) -> list[Limit]:
        """Settings at which it must equal another: with all keys alike, any mean is the same one."""
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(self, FullNaive(), Workload(2, 2, 150, 16, causal), key_scale=0.0)
            for causal in (False, True)
        ]
