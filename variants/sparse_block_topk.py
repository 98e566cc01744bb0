"""Mixture of block attention: each query chooses the key blocks it attends to.

Dimensions: n seq_len, S block, N blocks, G query heads per key head, X key heads of all batch
elements, R query rows.
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
    io_bytes,
    phase_flops,
    repeat_heads,
    softmax_attention,
)
from subquad.variants.engines.selected_blocks import (
    Blocks,
    selected_attention,
    selected_bytes,
    selected_pairs,
    top_blocks,
    visible_keys,
)


@dataclass(frozen=True)
class SparseBlockTopk(Variant):
    """Softmax over the keys of T = `blocks` blocks of `block` positions, chosen by each query and head.

    A query sees its own block and the T - 1 others with the largest q.(mean of the block's keys), or
    all where there are fewer. Causal: among the blocks before its own, which it sees up to itself.
    The paper is causal; not causal, the choice is among all blocks. Scores of the choice are float64,
    compared as float32, ties to the lowest block; the choice has no gradient.

    The choice compares every query with N means, so at a fixed `block` the time is quadratic, with a
    constant about 2 S times smaller than that of full attention.
    """

    name: ClassVar[str] = "sparse_block_topk"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Lu et al. 2025, MoBA, arXiv 2502.13189, section 2.2"
    supports: ClassVar[Supports] = Supports(cross=False)

    block: int = 64
    blocks: int = 4

    def __post_init__(self) -> None:
        at_least("block", self.block, 1)
        at_least("blocks", self.blocks, 1)

    def prepare(self, w: Workload) -> AttentionFn:
        cut = Blocks.of(w, self.block, self.blocks, shared=False)
        selected = selected_attention(cut)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with torch.no_grad():
                chosen = choose(cut, q, k)
            return selected(q, k, v, chosen)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            own = rows // self.block
            means = repeat_heads(block_means(k.detach(), self.block), w.heads)
            scores = q.detach()[:, :, rows].double() @ means.transpose(-2, -1)  # [B, H, R, N]
            chosen = top_blocks(scores, own, self.blocks - 1, w.causal)
            mask = visible_keys(chosen, own, self.block, w, rows)
            return softmax_attention(q[:, :, rows], k, v, mask)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        cut = Blocks.of(w, self.block, self.blocks, shared=False)
        heads = w.batch * w.key_heads
        means = 8 * w.head_dim * (heads * cut.count + w.seq_len)
        chosen = 8 * w.batch * w.heads * w.seq_len * (cut.seen - 1)
        return max(means + cut.choose_bytes(), chosen + selected_bytes(cut))

    def cost(self, w: Workload) -> Cost:
        heads, count = w.batch * w.heads, -(-w.seq_len // self.block)
        attend = 4 * w.head_dim * heads * selected_pairs(w, self.block, self.blocks)
        scored = w.seq_len * count // (2 if w.causal else 1)
        choice = 2 * w.head_dim * heads * scored if self.blocks > 1 else 0
        flops = phase_flops(w, attend) + choice  # the choice has no backward pass
        return Cost(flops, io_bytes(w), self.workspace_bytes(w), exponent=2.0)

    def limits(self) -> list[Limit]:
        """All blocks chosen, or one block only: full attention."""
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(SparseBlockTopk(block, blocks), FullNaive(), w)
            for block, blocks in ((16, 7), (8, 100), (1000, 1))
            for w in (
                Workload(2, 4, 101, 16, causal=True, kv_heads=2, phase="forward_backward"),
                Workload(2, 2, 101, 16, causal=False),
            )
        ]


def block_means(x: Tensor, block: int) -> Tensor:
    """[..., n, D] to the float64 means [..., N, D] of blocks of positions; the last may be shorter."""
    whole = x.shape[-2] // block * block
    # One head at a time: a float64 copy of all keys would be the largest tensor here.
    means = []
    for head in x.flatten(0, -3).unbind(0):
        head = head.double()
        mean = head[:whole].view(-1, block, x.shape[-1]).mean(1)
        rest = [head[whole:].mean(0, keepdim=True)] if whole < len(head) else []
        means.append(torch.cat([mean, *rest]))
    return torch.stack(means).view(*x.shape[:-2], -1, x.shape[-1])


def choose(cut: Blocks, q: Tensor, k: Tensor) -> Tensor:
    """The other blocks that each query sees, [X, G, n, T - 1]."""
    means = block_means(k, cut.size).flatten(0, 1).transpose(1, 2)  # [X, D, N]
    rows = q.reshape(cut.heads, cut.chosen_by, *q.shape[2:])

    def scores(at: slice, width: int) -> Tensor:
        queries = rows[:, :, at]
        found = queries.double().flatten(1, 2) @ means[:, :, :width]
        return found.view(*queries.shape[:3], width)

    return cut.choose(scores)
