"""Block steps: the engine of softmax over blocks of neighbouring queries and the keys that they meet.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk query heads per key head, n seq_len,
D head dim, S rows of a query block, N query blocks of a step, M keys that such a block meets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
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
SCORES = 5 * 2**16  # scores of one product, for each thread: more would leave the cache, and
# fewer would be so many products that threads wait for each other
BLOCK_SCORES = 2**17  # scores of a single block above which a kernel that splits its keys is better
FEW = 4  # blocks below which one call for all heads is faster than one product a head


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
        return self.keys(x).flatten(0, 1)

    def keys(self, x: Tensor) -> Tensor:
        """The same with batch and heads apart, [B, Hk, N, M, D]: never copied unless gathered."""
        if self.index is not None:
            return torch.unflatten(x.index_select(2, self.index), 2, (self.blocks, self.span))
        return self.overlapping(x, 0, self.span)

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
            self.overlapping(total, offset, width).add_(part[..., offset : offset + width, :])

    @cached_property
    def has_blank_rows(self) -> bool:
        """Whether some row of the mask hides every key."""
        return self.mask is not None and bool(self.mask.isinf().all(-1).any())

    def multiplies(self, x: Tensor) -> bool:
        """Whether plain products beat torch's fused kernel: on a CPU that has small tiles."""
        few = self.blocks < FEW or self.size * self.span > BLOCK_SCORES
        full = x.dtype in (torch.float32, torch.float64) and x.device.type == "cpu"
        return full and not (few or self.causal or self.has_blank_rows)

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

    def overlapping(self, x: Tensor, offset: int, width: int) -> Tensor:
        """x[first + offset + i * size ...] as a view [B, Hk, N, width, D]."""
        low = self.first + offset
        keys = x[:, :, low : low + (self.blocks - 1) * self.size + width]
        return keys.unfold(2, width, self.size).transpose(-1, -2)


@dataclass(frozen=True)
class Tile:
    """Some blocks of one head: an index of [B, Hk, N, G] and one of [B, Hk, N], and their mask."""

    query: tuple[int, int, slice, int]
    key: tuple[int, int, slice]
    mask: Tensor | None

    def scores(self, q: Tensor, k: Tensor, out: Tensor) -> Tensor:
        """The weights of queries [N, S, D] on keys [N, M, D] in the flat buffer `out`, [N, S, M]."""
        shape = (len(q), q.shape[1], k.shape[1])
        weights = out[: math.prod(shape)].view(shape)
        scale = q.shape[-1] ** -0.5
        if self.mask is None:
            torch.baddbmm(weights, q, k.mT, beta=0, alpha=scale, out=weights)
        else:
            torch.baddbmm(self.mask, q, k.mT, alpha=scale, out=weights)
        return torch.softmax(weights, -1, out=weights)


def _tiles(step: Step, q: Tensor, key_heads: int, some: int) -> Iterator[Tile]:
    """The tiles of a step, of `some` blocks each."""
    batch, group = q.shape[0], q.shape[1] // key_heads
    for b, h, g in product(range(batch), range(key_heads), range(group)):
        mask = None if step.mask is None else step.mask[g * step.size : (g + 1) * step.size]
        for i in range(0, step.blocks, some):
            blocks = slice(i, i + some)
            yield Tile((b, h, blocks, g), (b, h, blocks), mask)


def _blocks_of_tile(step: Step) -> int:
    fitting = max(1, SCORES * torch.get_num_threads() // (step.size * step.span))
    return min(step.blocks, fitting)


def _multiply(step: Step, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    """Attention of a step, one tile after the other, right into the rows of `out`."""
    queries, answers = step.of_queries(q, k.shape[1]), step.of_queries(out, k.shape[1])
    keys, values, some = step.keys(k), step.keys(v), _blocks_of_tile(step)
    buffer = q.new_empty(some * step.size * step.span)
    for tile in _tiles(step, q, k.shape[1], some):
        weights = tile.scores(queries[tile.query], keys[tile.key], buffer)
        torch.bmm(weights, values[tile.key], out=answers[tile.query])


def _multiply_gradients(
    step: Step,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Gradients of a step, one tile after the other: each product right into its place."""
    queries, upstream, dqs = (step.of_queries(x, k.shape[1]) for x in (q, grad, dq))
    keys, values = step.keys(k), step.keys(v)
    places = []
    for low in range(0, step.span, step.size):
        width = min(step.size, step.span - low)
        dks, dvs = (step.overlapping(x, low, width) for x in (dk, dv))
        places.append((slice(low, low + width), dks, dvs))
    scale, some = q.shape[-1] ** -0.5, _blocks_of_tile(step)
    first, second = (q.new_empty(some * step.size * step.span) for _ in range(2))
    for tile in _tiles(step, q, k.shape[1], some):
        own, back = queries[tile.query], upstream[tile.query]
        weights = tile.scores(own, keys[tile.key], first)
        slopes = second[: weights.numel()].view(weights.shape)
        torch.bmm(back, values[tile.key].mT, out=slopes)
        for columns, _, dvs in places:
            dvs[tile.key].baddbmm_(weights[..., columns].mT, back)
        torch._softmax_backward_data(slopes, weights, -1, slopes.dtype, grad_input=slopes)
        out = dqs[tile.query]
        torch.baddbmm(out, slopes, keys[tile.key], beta=0, alpha=scale, out=out)
        for columns, dks, _ in places:
            dks[tile.key].baddbmm_(slopes[..., columns].mT, own, alpha=scale)


Part = tuple[slice, Sequence[Step]]
"""Positions along dimension 2 of q, k and v, and the steps that answer them as one sequence."""

WHOLE = slice(None)


class _Steps(torch.autograd.Function):
    """Steps with a backward that recomputes each, so that nothing but q, k and v is kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part]) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.parts = parts
        return run_parts(parts, q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        total_dtype = torch.promote_types(k.dtype, torch.float32)  # a key gets sums of many steps
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k, dtype=total_dtype), torch.zeros_like(v, dtype=total_dtype)
        for at, steps in ctx.parts:
            inputs, totals = (q, k, v, grad), (dq, dk, dv)
            _add_gradients(steps, *(x[:, :, at] for x in inputs), *(x[:, :, at] for x in totals))
        return dq, dk.to(k.dtype), dv.to(v.dtype), None


def _add_gradients(
    steps: Sequence[Step],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Write the gradient of q to dq, and add those of k and v to dk and dv."""
    key_heads = k.shape[1]
    for step in steps:
        if step.index is None and step.multiplies(q):
            _multiply_gradients(step, q, k, v, grad, dq, dk, dv)
            continue
        pieces = (step.of_queries(q, key_heads), step.of_keys(k), step.of_keys(v))
        qs, ks, vs = (x.detach().requires_grad_() for x in pieces)
        with torch.enable_grad():
            out = step.attend(qs, ks, vs)
        gq, gk, gv = torch.autograd.grad(out, (qs, ks, vs), step.of_queries(grad, key_heads))
        step.of_queries(dq, key_heads).copy_(gq)
        step.add_to_keys(dk, gk)
        step.add_to_keys(dv, gv)


def run_parts(parts: Sequence[Part], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of each part, step by step, each into its rows of the output; without a gradient."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for at, steps in parts:
        qs, ks, vs, outs = (x[:, :, at] for x in (q, k, v, out))
        for step in steps:
            if step.multiplies(q):
                _multiply(step, qs, ks, vs, outs)
                continue
            part = step.attend(step.of_queries(qs, k.shape[1]), step.of_keys(ks), step.of_keys(vs))
            step.of_queries(outs, k.shape[1]).copy_(part)
    return out


def attention_of_steps(w: Workload, steps: Sequence[Step]) -> AttentionFn:
    """What `prepare` returns for `steps` that cover every query row once."""
    return attention_of_parts(w, [(WHOLE, steps)])


def attention_of_parts(w: Workload, parts: Sequence[Part]) -> AttentionFn:
    """What `prepare` returns for parts that know nothing of each other, and cover every row once."""
    if w.phase == "forward":
        return lambda q, k, v: run_parts(parts, q, k, v)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = _Steps.apply(q, k, v, parts)  # type: ignore[no-untyped-call]
        return out

    return attend


def blocks_per_step(w: Workload, rows: int) -> int:
    """How many query blocks of `rows` rows one step may take."""
    limit = CPU_BLOCKS if w.device == "cpu" else CUDA_BLOCKS
    if w.phase != "forward":
        limit //= 4  # gradients of overlapping keys are as many copies of them
    return max(1, limit * ROWS // (w.batch * w.heads * rows))


def blocks_in_place(w: Workload, rows: int, span: int) -> int:
    """The same where keys are read in place: steps of products hold one tile, however many blocks."""
    return -(-w.seq_len // rows) if _multiplied(w, rows, span) else blocks_per_step(w, rows)


def _multiplied(w: Workload, rows: int, span: int) -> bool:
    """Whether steps of as many rows and keys are done by products, as far as a workload tells."""
    return w.device == "cpu" and w.element_bytes >= 4 and rows * span <= BLOCK_SCORES


def steps_in_place_bytes(w: Workload, rows: int, span: int) -> int:
    """Workspace of steps of `blocks_in_place` blocks of `rows` rows and `span` keys, with a mask."""
    if not _multiplied(w, rows, span):
        blocks = blocks_per_step(w, rows)
        # Only with gradients do the overlapping keys become tensors of their own.
        keys = 0 if w.phase == "forward" else min((blocks + 1) * span, 4 * w.seq_len)
        return steps_bytes(w, min(w.seq_len, blocks * rows), keys)
    # Single blocks at the ends of the sequence: their output, copies with gradients, and the kernel's
    # scores, which it takes for 64 rows at most.
    query, key = w.heads * rows * w.head_dim, w.key_heads * span * w.head_dim
    parts = query if w.phase == "forward" else 4 * (query + 2 * key)
    kernel = torch.get_num_threads() * 64 * (min(512, span) + w.head_dim)
    single = (w.batch * parts + kernel) * w.element_bytes
    buffers = 1 if w.phase == "forward" else 2
    tiles = buffers * min(SCORES * torch.get_num_threads(), w.seq_len * span) * w.element_bytes
    return max(single, tiles)


def steps_bytes(w: Workload, rows: int, gathered_keys: int = 0) -> int:
    """Workspace of steps of `rows` query rows that copy `gathered_keys` keys and values each."""
    step = w.batch * w.head_dim * (w.heads * rows + 2 * w.key_heads * gathered_keys)
    if w.phase == "forward":
        return step * w.element_bytes + KERNEL_BYTES
    key_total = 2 * w.batch * w.key_heads * w.key_len * w.head_dim
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
