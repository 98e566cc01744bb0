"""Native sparse attention: compressed, selected and neighbouring keys, mixed by gates.

Dimensions: n seq_len, S block, N blocks, G query heads per key head, X key heads of all batch
elements, R query rows; E whole blocks, each with one compressed key and value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    OracleFn,
    Supports,
    TensorSpec,
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
from subquad.variants.local_window import LocalWindow

ROWS = 512  # query rows that meet the compressed keys at once


@dataclass(frozen=True)
class SparseNsa(Variant):
    """out_i = g_i0 compressed_i + g_i1 selected_i + g_i2 window_i, gates g in (0, 1) per head; causal.

    Positions are cut in blocks of `block`; the query i belongs to block t = i // block.
    compressed: softmax over one key for each block u < t, with one value: the block's keys (values)
    summed with the learned weights `compress_k` (`compress_v`) [Hk, block]. Zeros for t = 0.
    selected: softmax over the keys j <= i of `blocks` blocks: t, block 0, and the blocks u < t with
    the largest weights in `compressed`, summed over the query heads of a key head, which so share
    their blocks; all where there are fewer.
    window: softmax over the keys i - window + 1 .. i.

    Simpler than the paper: its learned compression is an MLP with position encodings and its
    compressed blocks overlap; here it is linear, and compressed and selected blocks are the same. A
    block of the paper is compressed for its own last position already; here for later blocks only.
    The three branches read the same keys and values. The choice is made in float64, compared as
    float32, ties to the lowest block, and has no gradient.

    Every query meets a compressed key of every block, so at a fixed `block` the time is quadratic,
    with a constant about `block` times smaller than that of full attention.
    """

    name: ClassVar[str] = "sparse_nsa"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Yuan et al. 2025, Native sparse attention, arXiv 2502.11089, section 3"
    supports: ClassVar[Supports] = Supports(causal=(True,), cross=False)

    block: int = 64
    blocks: int = 4
    window: int = 256

    def __post_init__(self) -> None:
        at_least("block", self.block, 1)
        at_least("blocks", self.blocks, 1)
        at_least("window", self.window, 1)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        """Gates of the three branches; weights of a compressed block with a mean of 1 / block."""
        weights = TensorSpec((w.key_heads, self.block), 0.0, 2.0 / self.block, learned=True)
        return {
            "gates": TensorSpec((w.batch, w.heads, w.seq_len, 3)),
            "compress_k": weights,
            "compress_v": weights,
        }

    def prepare(self, w: Workload) -> AttentionFn:
        cut = Blocks.of(w, self.block, self.blocks, shared=True)
        window = LocalWindow(self.window).prepare(w)
        selected, coarse = selected_attention(cut), compressed_attention(w, self.block)

        def attend(
            q: Tensor, k: Tensor, v: Tensor, gates: Tensor, compress_k: Tensor, compress_v: Tensor
        ) -> Tensor:
            with torch.no_grad():
                chosen = choose(cut, q, k, compress_k)
            gates = gates.to(cut.dtype)
            out = selected(q, k, v, chosen) * gates[..., 1:2]
            out = torch.addcmul(out, window(q, k, v).to(cut.dtype), gates[..., 2:])
            if w.seq_len > self.block:
                keys = compress(k.to(cut.dtype), compress_k.to(cut.dtype))
                values = compress(v.to(cut.dtype), compress_v.to(cut.dtype))
                out = torch.addcmul(out, coarse(q, keys, values), gates[..., :1])
            return out.to(w.torch_dtype)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        window = LocalWindow(self.window)

        def attend(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            rows: Tensor,
            gates: Tensor,
            compress_k: Tensor,
            compress_v: Tensor,
        ) -> Tensor:
            own = rows // self.block
            keys, values = compress(k, compress_k), compress(v, compress_v)
            q = q[:, :, rows]
            past = torch.arange(keys.shape[2], device=rows.device) < own[:, None]  # [R, E]
            compressed = softmax_attention(q, keys, values, past).nan_to_num(0.0)

            exact = compress(k.detach().double(), compress_k.detach().double()).flatten(0, 1)
            queries = q.detach().double().view(len(exact), -1, *q.shape[2:])
            chosen = top_blocks(importance(queries, exact, own), own, self.blocks - 1, causal=True)
            sees = visible_keys(chosen, own, self.block, w, rows)  # [X, R, n]
            sees = repeat_heads(sees.view(*k.shape[:2], *sees.shape[1:]), w.heads)
            selected = softmax_attention(q, k, v, sees)

            near = softmax_attention(q, k, v, window.mask(w, rows))
            gate = gates[:, :, rows]
            return gate[..., :1] * compressed + gate[..., 1:2] * selected + gate[..., 2:] * near

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        cut = Blocks.of(w, self.block, self.blocks, shared=True)
        heads, element = w.batch * w.key_heads, max(4, w.element_bytes)
        output = w.batch * w.heads * w.seq_len * w.head_dim * element
        chosen = 8 * heads * w.seq_len * (cut.seen - 1)
        deriving = w.phase == "forward_backward"
        converted = 2 * heads * w.seq_len * w.head_dim * element if w.element_bytes < 4 else 0
        mask = (w.heads // w.key_heads) * ROWS * (cut.count + ROWS // cut.size) * element
        choosing = 8 * w.head_dim * (heads * cut.count + w.seq_len) + cut.choose_bytes()
        # Each branch keeps its output for the gradient of its gate, and gets one of its own.
        held = (6 if deriving else 2) * output + chosen + mask
        return max(choosing, held + converted + selected_bytes(cut))

    def cost(self, w: Workload) -> Cost:
        heads, count = w.batch * w.heads, -(-w.seq_len // self.block)
        # Query block t meets t compressed keys.
        coarse = self.block * count * (count - 1) // 2 - (-w.seq_len % self.block) * (count - 1)
        pairs = coarse + selected_pairs(w, self.block, self.blocks)
        pairs += LocalWindow(self.window).visible_pairs(w)
        compress = 4 * w.batch * w.key_heads * w.seq_len * w.head_dim
        forward = 4 * w.head_dim * heads * pairs + compress
        extra = w.batch * w.heads * w.seq_len * 3 + 2 * w.key_heads * self.block
        extra *= w.element_bytes * (2 if w.phase == "forward_backward" else 1)
        return Cost(phase_flops(w, forward), io_bytes(w) + extra, self.workspace_bytes(w), exponent=2.0)

    def limits(self) -> list[Limit]:
        """One branch alone: a window as long as the sequence, or all blocks selected, is everything."""
        from subquad.variants.full_naive import FullNaive

        w = Workload(2, 4, 101, 16, causal=True, kv_heads=2)
        selected, window = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        return [
            Limit(SparseNsa(16, 7, 8), FullNaive(), w, fixed={"gates": selected}),
            Limit(SparseNsa(8, 100, 8), FullNaive(), w, fixed={"gates": selected}),
            Limit(SparseNsa(16, 2, 101), FullNaive(), w, fixed={"gates": window}),
        ]


def compress(x: Tensor, weights: Tensor) -> Tensor:
    """[B, Hk, n, D] to [B, Hk, E, D]: whole blocks, their positions summed with weights [Hk, S]."""
    count, block = x.shape[2] // weights.shape[1], weights.shape[1]
    blocks = torch.unflatten(x[:, :, : count * block], 2, (count, block))
    summed: Tensor = weights[:, None, None, :] @ blocks
    return summed.squeeze(-2)


def importance(q: Tensor, keys: Tensor, own: Tensor) -> Tensor:
    """How much a key head's queries [X, G, R, D] weigh the compressed keys [X, E, D], [X, R, E].

    All float64. Block 0 is more important than any other.
    """
    group, rows = q.shape[1:3]
    scores = torch.unflatten(q.flatten(1, 2) @ keys.transpose(1, 2), 1, (group, rows))
    future = torch.arange(keys.shape[1], device=own.device) >= own[:, None]
    weights = (scores / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf).softmax(-1)
    total: Tensor = weights.sum(1)
    total[..., :1] = math.inf
    return total


def choose(cut: Blocks, q: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    """The other blocks that the queries of a position see, [X, 1, n, T - 1]."""
    if cut.w.seq_len <= weights.shape[1]:
        return cut.choose(lambda at, width: q.new_empty(0))
    # One head at a time: a float64 copy of all keys would be the largest tensor here.
    weights = weights.double()
    each = [
        compress(x.double()[None, None], weights[i % len(weights)][None])[0, 0]
        for i, x in enumerate(k.flatten(0, 1))
    ]
    keys = torch.stack(each)  # [X, E, D]
    rows = q.reshape(cut.heads, cut.shared_by, *q.shape[2:])

    def scores(at: slice, width: int) -> Tensor:
        own = torch.arange(at.start, at.stop, device=q.device) // cut.size
        return importance(rows[:, :, at].double(), keys[:, :width], own)[:, None]

    return cut.choose(scores)


def compressed_attention(w: Workload, block: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention of q [B, H, n, D] to keys and values [B, Hk, E, D] of blocks before a query's own.

    Plain operations, derivable; in the dtype of the keys. The first block's rows are zeros.
    """
    group, size = w.heads // w.key_heads, max(1, ROWS // block) * block
    behind = -(-w.seq_len // block)
    # A chunk that starts with block t sees the t blocks before it, then a staircase: a part of this.
    step = torch.arange(size) // block
    hidden = torch.arange(size // block) >= step[:, None]
    dtype = torch.promote_types(w.torch_dtype, torch.float32)
    stairs = torch.zeros(size, size // block, dtype=dtype).masked_fill_(hidden, -math.inf)
    stairs = F.pad(stairs, (behind, 0)).repeat(group, 1).view(group, size, -1).to(w.device)
    starts = range(block, w.seq_len, size)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sizes = [block, *(min(size, w.seq_len - start) for start in starts)]
        first, *chunks = torch.unflatten(q, 1, (w.key_heads, group)).split_with_sizes(sizes, dim=3)
        parts = [torch.zeros_like(first, dtype=k.dtype)]
        for start, rows in zip(starts, chunks, strict=True):
            count, seen = rows.shape[3], (start + rows.shape[3] - 1) // block
            at = start // block
            mask = stairs[:, :count, behind - at : behind - at + seen].flatten(0, 1)
            found = F.scaled_dot_product_attention(
                rows.to(k.dtype).flatten(2, 3), k[:, :, :seen], v[:, :, :seen], attn_mask=mask
            )
            parts.append(torch.unflatten(found, 2, (group, count)))
        return torch.cat(parts, dim=3).view(w.query_shape)

    return attend
