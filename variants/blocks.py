"""Block steps: the engine of softmax over blocks of neighbouring queries and the keys that they meet.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk query heads per key head, n seq_len,
D head dim, S rows of a query block, N query blocks of a step, M keys that such a block meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.contract import AttentionFn, Workload

ROWS = 64  # of a query block: fewer masked pairs than 128, and still large enough a product
CPU_BLOCKS = 128  # query blocks (over all heads) of one step: their output stays in the cache
CUDA_BLOCKS = 8192  # here a step is a launch, so there should be few
KERNEL_BYTES = 3 * 2**19  # about what scaled_dot_product_attention takes for itself on two threads


@dataclass(frozen=True)
class Step:
    """N = `blocks` neighbouring query blocks of S = `size` rows from row `start`, M = `span` keys each.

    Block i meets the keys from `first + i * size` on, read in place, or those of `index` [N * M].
    `mask` [G * S, M] is added to the scores; `causal` hides the upper triangle of a square block.
    """

    start: int
    blocks: int
    size: int
    first: int
    span: int
    mask: Tensor | None = None
    index: Tensor | None = None
    causal: bool = False

    def of_queries(self, x: Tensor, key_heads: int) -> Tensor:
        """The step's rows of x [B, H, n, D] as a view [B, Hk, N, G, S, D]."""
        rows = x[:, :, self.start : self.start + self.blocks * self.size]
        grouped = torch.unflatten(rows, 1, (key_heads, -1))
        return torch.unflatten(grouped, 3, (self.blocks, self.size)).transpose(2, 3)

    def of_keys(self, x: Tensor) -> Tensor:
        """The keys that each block of the step meets, [B * Hk, N, M, D]; not copied unless gathered."""
        if self.index is not None:
            gathered = x.index_select(2, self.index).flatten(0, 1)
            return torch.unflatten(gathered, 1, (self.blocks, self.span))
        return self._overlapping(x, 0, self.span).flatten(0, 1)

    def add_to_keys(self, total: Tensor, part: Tensor) -> None:
        """Add part [B * Hk, N, M, D] to the keys of total [B, Hk, n, D] that it belongs to."""
        part = torch.unflatten(part, 0, total.shape[:2]).to(total.dtype)
        if self.index is not None:
            # One block at a time: its keys are distinct, so the sum has one order on every device.
            for i, index in enumerate(self.index.view(self.blocks, self.span)):
                total.index_add_(2, index, part[:, :, i])
            return
        for offset in range(0, self.span, self.size):
            width = min(self.size, self.span - offset)
            self._overlapping(total, offset, width).add_(part[..., offset : offset + width, :])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries [B, Hk, N, G, S, D] on keys [B * Hk, N, M, D]: [B, Hk, N, G, S, D]."""
        group = q.shape[3]
        if self.causal:  # this mask is no tensor that could be tiled, so each query head stands alone
            k, v = (k, v) if group == 1 else (x.repeat_interleave(group, 1) for x in (k, v))
            out = F.scaled_dot_product_attention(q.flatten(2, 3).flatten(0, 1), k, v, is_causal=True)
            out = torch.unflatten(out, 1, (self.blocks, group))
        else:
            out = F.scaled_dot_product_attention(
                q.flatten(3, 4).flatten(0, 1), k, v, attn_mask=self.mask
            )
            out = torch.unflatten(out, 2, (group, self.size))
        return torch.unflatten(out, 0, q.shape[:2])

    def _overlapping(self, x: Tensor, offset: int, width: int) -> Tensor:
        """x[first + offset + i * size ...] as a view [B, Hk, N, width, D]."""
        low = self.first + offset
        keys = x[:, :, low : low + (self.blocks - 1) * self.size + width]
        return keys.unfold(2, width, self.size).transpose(-1, -2)


class _Steps(torch.autograd.Function):
    """Steps with a backward that recomputes each, so that nothing but q, k and v is kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, steps: Sequence[Step]) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.steps = steps
        return run_steps(steps, q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        key_heads = k.shape[1]
        total_dtype = torch.promote_types(k.dtype, torch.float32)  # a key gets sums of many steps
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k, dtype=total_dtype), torch.zeros_like(v, dtype=total_dtype)
        for step in ctx.steps:
            pieces = (step.of_queries(q, key_heads), step.of_keys(k), step.of_keys(v))
            pieces = tuple(x.detach().requires_grad_() for x in pieces)
            with torch.enable_grad():
                out = step.attend(*pieces)
            gq, gk, gv = torch.autograd.grad(out, pieces, step.of_queries(grad, key_heads))
            step.of_queries(dq, key_heads).copy_(gq)
            step.add_to_keys(dk, gk)
            step.add_to_keys(dv, gv)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None


def run_steps(steps: Sequence[Step], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention step by step, each into its rows of the output; without a gradient."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for step in steps:
        part = step.attend(step.of_queries(q, k.shape[1]), step.of_keys(k), step.of_keys(v))
        step.of_queries(out, k.shape[1]).copy_(part)
    return out


def attention_of_steps(w: Workload, steps: Sequence[Step]) -> AttentionFn:
    """What `prepare` returns for `steps` that cover every query row once."""
    if w.phase == "forward":
        return lambda q, k, v: run_steps(steps, q, k, v)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = _Steps.apply(q, k, v, steps)  # type: ignore[no-untyped-call]
        return out

    return attend


def blocks_per_step(w: Workload, rows: int) -> int:
    """How many query blocks of `rows` rows one step may take."""
    limit = CPU_BLOCKS if w.device == "cpu" else CUDA_BLOCKS
    if w.phase != "forward":
        limit //= 4  # gradients of overlapping keys are as many copies of them
    return max(1, limit * ROWS // (w.batch * w.heads * rows))


def steps_bytes(w: Workload, rows: int, gathered_keys: int = 0) -> int:
    """Workspace of steps of `rows` query rows that copy `gathered_keys` keys and values each."""
    step = w.batch * w.head_dim * (w.heads * rows + 2 * w.key_heads * gathered_keys)
    if w.phase == "forward":
        return step * w.element_bytes + KERNEL_BYTES
    key_total = 2 * w.batch * w.key_heads * w.seq_len * w.head_dim
    total_bytes = max(4, w.element_bytes)
    copies = key_total * total_bytes if w.element_bytes < 4 else 0
    return copies + 4 * step * w.element_bytes + KERNEL_BYTES


def merged(steps: Sequence[Step], limit: int) -> list[Step]:
    """Neighbouring steps that meet their keys alike as one, of at most `limit` blocks."""
    result: list[Step] = []
    for step in steps:
        if result and result[-1].blocks < limit and _continues(result[-1], step):
            result[-1] = replace(result[-1], blocks=result[-1].blocks + 1)
        else:
            result.append(step)
    return result


def _continues(last: Step, step: Step) -> bool:
    shift = last.blocks * last.size
    return (step.size, step.span, step.first) == (last.size, last.span, last.first + shift)
