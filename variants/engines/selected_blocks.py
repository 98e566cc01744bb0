"""Softmax over blocks of keys that each query chose for itself: selection, attention, gradients.

Dimensions: X key heads of all batch elements (B Hk), G query heads per key head, C of them that choose
each for itself and g that share a choice (G = C g), n seq_len, D head dim, S block, N blocks,
T blocks that a query sees: its own and up to T - 1 others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.contract import Workload, causal_mask

CPU_SCORES = 2**18  # numbers of a chunk of scores or of a group of tiles: they stay in the cache
CPU_PARTS = 2**21  # numbers of the partial outputs of the heads that are taken together
CUDA_FACTOR = 2**6

ScoresFn = Callable[[slice, int], Tensor]
"""Float64 scores [X, C, rows, width] of the first `width` blocks for the queries of a slice."""


def top(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest along the last dimension, largest first, int64.

    Scores are compared as float32 and ties go to the lowest index. They are computed in float64, so
    sums that were taken in another order, off by some 1e-16, compare the same.
    """
    bits = scores.to(torch.float32).add(0.0).view(torch.int32)  # -0 becomes 0
    # As integers floats are ordered but for the negative ones, which run backwards.
    ordered = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits).to(torch.int64)
    size = scores.shape[-1]
    tie_break = torch.arange(size - 1, -1, -1, device=scores.device)
    return ordered.mul_(size).add_(tie_break).topk(count, dim=-1).indices


def top_blocks(scores: Tensor, own: Tensor, count: int, causal: bool) -> Tensor:
    """The best `count` blocks besides its own for each row, [..., R, count]; -1 where there is none.

    `scores` are [..., R, N] and `own` [R] is the block that a row belongs to. Causal: only blocks
    before the own one.
    """
    blocks = torch.arange(scores.shape[-1], device=scores.device)
    own = own[:, None]
    barred = blocks >= own if causal else blocks == own
    picked = top(scores.masked_fill(barred, -math.inf), min(count, scores.shape[-1]))
    picked = picked.masked_fill(picked >= own if causal else picked == own, -1)
    return F.pad(picked, (0, count - picked.shape[-1]), value=-1)


def visible_keys(chosen: Tensor, own: Tensor, block: int, w: Workload, rows: Tensor) -> Tensor:
    """The choice [..., R, T - 1] as a mask of keys [..., R, n], the own block with it."""
    count = -(-w.seq_len // block)
    # One column more takes the -1.
    sees = torch.zeros(*chosen.shape[:-1], count + 1, dtype=torch.bool, device=chosen.device)
    sees.scatter_(-1, chosen.masked_fill(chosen < 0, count), True)
    sees[..., torch.arange(len(own), device=own.device), own] = True
    keys = sees[..., :count].repeat_interleave(block, dim=-1)[..., : w.seq_len]
    return keys & causal_mask(w, rows) if w.causal else keys


@dataclass(frozen=True)
class Blocks:
    """How a workload is cut; its tensors are seen as [X, C, n, g, D]."""

    size: int  # S
    seen: int  # T
    chosen_by: int  # C
    w: Workload

    @classmethod
    def of(cls, w: Workload, block: int, seen: int, shared: bool) -> Blocks:
        """`shared`: the query heads of a key head choose together."""
        size = min(block, w.seq_len)
        count = -(-w.seq_len // size)
        return cls(size, min(seen, count), 1 if shared else w.heads // w.key_heads, w)

    @property
    def count(self) -> int:
        return -(-self.w.seq_len // self.size)

    @property
    def shared_by(self) -> int:
        return self.w.heads // self.w.key_heads // self.chosen_by

    @property
    def heads(self) -> int:
        return self.w.batch * self.w.key_heads

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.w.torch_dtype, torch.float32)

    @property
    def factor(self) -> int:
        return 1 if self.w.device == "cpu" else CUDA_FACTOR

    def of_queries(self, x: Tensor) -> Tensor:
        """[B, H, n, D] as a view [X, C, n, g, D]."""
        shape = (self.heads, self.chosen_by, self.shared_by, *x.shape[2:])
        return x.view(shape).transpose(2, 3)

    def of_keys(self, x: Tensor) -> Tensor:
        """[x, n, D] to [x N, S, D] in the dtype of the arithmetic; a short last block ends in zeros."""
        padding = self.count * self.size - x.shape[1]
        x = x.to(self.dtype)
        x = F.pad(x, (0, 0, 0, padding)) if padding else x
        return x.reshape(-1, self.size, x.shape[2])

    def heads_at_once(self) -> int:
        """x: key heads whose partial outputs are held together."""
        rows = self.w.seq_len * self.chosen_by * self.shared_by
        return min(self.heads, max(1, self.factor * CPU_PARTS // (rows * self.seen * self.w.head_dim)))

    def tiles_at_once(self) -> int:
        rows = self.size * self.shared_by
        each = rows * (self.size + 2 * self.w.head_dim) + 2 * self.size * self.w.head_dim
        return max(1, self.factor * CPU_SCORES // each)

    def choose(self, scores_of: ScoresFn) -> Tensor:
        """The other blocks that each query sees, [X, C, n, T - 1]; -1 where there are fewer."""
        n, others = self.w.seq_len, self.seen - 1
        device = self.w.device
        chosen = torch.full((self.heads, self.chosen_by, n, others), -1, device=device)
        width_of_row = self.heads * self.chosen_by * self.shared_by * self.count
        rows = max(16, self.factor * CPU_SCORES // width_of_row)
        for start in range(0, n if others else 0, rows):
            stop = min(n, start + rows)
            width = (stop - 1) // self.size if self.w.causal else self.count
            if width == 0:
                continue
            own = torch.arange(start, stop, device=device) // self.size
            scores = scores_of(slice(start, stop), width)
            chosen[:, :, start:stop] = top_blocks(scores, own, others, self.w.causal)
        return chosen

    def choose_bytes(self) -> int:
        """Workspace of `choose`: the choice, and scores with the integers that are compared."""
        heads = self.heads * self.chosen_by
        width = heads * self.shared_by * self.count
        rows = min(self.w.seq_len, max(16, self.factor * CPU_SCORES // width))
        return 8 * (heads * self.w.seq_len * (self.seen - 1) + 4 * rows * width)


@dataclass(frozen=True)
class Tiles:
    """Pairs of a row and a block it sees, S rows of one block to a tile; first come the own blocks.

    Rows are those of x C n, blocks those of x N. A slot is a place in a tile, tile * S + place.
    """

    rows: Tensor  # int64 [tiles, S]
    blocks: Tensor  # int64 [tiles]
    empty: Tensor  # bool [tiles, S]: a slot without a row; it repeats one of the same head
    slots: Tensor  # int64 [x C n, T]: where the row is met; its own block first, and again for -1
    present: Tensor  # bool [x C n, T]
    own: int  # how many tiles are own blocks

    @classmethod
    def of(cls, b: Blocks, chosen: Tensor) -> Tiles:
        """The tiles of a choice [x, C, n, T - 1]."""
        (heads, copies, n, others), device = chosen.shape, chosen.device
        size, count = b.size, b.count
        copy = torch.arange(heads * copies, device=device)
        place = torch.arange(count * size, device=device)
        rows = (copy[:, None] * n + place.clamp(max=n - 1)).view(-1, size)
        empty = (place >= n).expand(len(copy), -1).reshape(-1, size)
        block = torch.arange(heads * count, device=device).view(heads, 1, count)
        blocks = block.expand(-1, copies, -1).flatten()
        own_slots = (copy[:, None] * (count * size) + place[:n]).flatten()
        present = F.pad(chosen.flatten(0, 2) >= 0, (1, 0), value=True)
        if others == 0:
            return cls(rows, blocks, empty, own_slots[:, None], present, len(rows))

        absent = heads * count
        first_block = torch.arange(heads, device=device).mul_(count)[:, None, None, None]
        pairs = torch.where(chosen < 0, absent, chosen + first_block).flatten()
        block_of, order = pairs.sort(stable=True)
        row_of = order.div(others, rounding_mode="floor")
        runs = torch.bincount(pairs, minlength=absent + 1)
        starts = runs.cumsum(0) - runs
        needed = (runs[:absent] + size - 1).div(size, rounding_mode="floor")
        firsts = F.pad(needed.cumsum(0), (1, 0)) + len(rows)  # of each block, and the end
        total = int(firsts[-1]) - len(rows)
        tile_block = torch.repeat_interleave(block.flatten(), needed, output_size=total)
        tile = torch.arange(len(rows), len(rows) + total, device=device)
        ranks = ((tile - firsts[tile_block]) * size)[:, None] + place[:size]
        last = (runs[tile_block] - 1)[:, None]
        pair = starts[tile_block][:, None] + torch.minimum(ranks, last)
        met = firsts[block_of] * size + torch.arange(len(pairs), device=device) - starts[block_of]
        slots = torch.empty_like(pairs)
        slots[order] = torch.where(block_of == absent, own_slots[row_of], met)
        return cls(
            rows=torch.cat([rows, row_of[pair]]),
            blocks=torch.cat([blocks, tile_block]),
            empty=torch.cat([empty, ranks > last]),
            slots=torch.cat([own_slots[:, None], slots.view(-1, others)], dim=1),
            present=present,
            own=len(rows),
        )

    def groups(self, size: int) -> Iterator[tuple[slice, bool]]:
        """Up to `size` tiles at a time, and whether they are own blocks; never both kinds."""
        for low, high, own in ((0, self.own, True), (self.own, len(self.rows), False)):
            for start in range(low, high, size):
                yield slice(start, min(high, start + size)), own


class _Heads:
    """x key heads of a workload, their rows, blocks and tiles in the dtype of the arithmetic."""

    def __init__(self, b: Blocks, at: slice, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor) -> None:
        self.b, self.at = b, at
        self.tiles = Tiles.of(b, chosen[at])
        self.scale = 1 / math.sqrt(q.shape[-1])
        self.q = self.rows(q).mul_(self.scale)
        self.k, self.v = (b.of_keys(x.flatten(0, 1)[at]) for x in (k, v))
        self.ragged = b.count * b.size != b.w.seq_len
        key = torch.arange(b.size, device=q.device)
        if b.w.causal:
            hidden = (key > key[:, None]).repeat_interleave(b.shared_by, dim=0)[None]
        else:
            hidden = torch.arange(b.count * b.size, device=q.device) >= b.w.seq_len
            hidden = hidden.view(b.count, 1, b.size).repeat(len(self.k) // b.count, 1, 1)
        self.bias = torch.zeros(hidden.shape, dtype=b.dtype, device=q.device)
        self.bias.masked_fill_(hidden, -math.inf)

    def rows(self, x: Tensor) -> Tensor:
        """A copy of [B, H, n, D] as [x C n, g D]."""
        part = self.b.of_queries(x)[self.at]
        copy = torch.empty(part.shape, dtype=self.b.dtype, device=x.device).copy_(part)
        return copy.view(-1, self.b.shared_by * x.shape[-1])

    def gather(self, x: Tensor, part: slice) -> Tensor:
        """Rows [x C n, g E] for the slots of some tiles: [tiles, S g, E]."""
        found = x.index_select(0, self.tiles.rows[part].flatten())
        return found.view(-1, self.b.size * self.b.shared_by, x.shape[-1] // self.b.shared_by)

    def scores(self, q: Tensor, k: Tensor, part: slice, own: bool) -> Tensor:
        """Scaled scores [tiles, S g, S]; the others of a causal choice are past and whole."""
        if self.b.w.causal:
            bias = self.bias if own else None
        else:
            bias = self.bias[self.tiles.blocks[part]] if self.ragged else None
        if bias is None:
            return torch.bmm(q, k.transpose(1, 2))
        return torch.baddbmm(bias, q, k.transpose(1, 2))

    def summed(self, parts: Tensor, factors: Tensor | None, out: Tensor) -> None:
        """Write the sum of parts [slots, E] over the slots of each row to `out` [x C n, E].

        `factors` [x C n, T, g] weigh the parts, 0 where a slot is not present; None counts them all.
        """
        slots, present, group = self.tiles.slots, self.tiles.present, self.b.shared_by
        if factors is None:
            factors = present.to(parts.dtype)[..., None].expand(-1, -1, group)
        chunk = max(1, self.b.factor * CPU_SCORES // (slots.shape[1] * parts.shape[1]))
        for start in range(0, len(slots), chunk):
            here = slice(start, start + chunk)
            found = parts.index_select(0, slots[here].flatten())
            found = found.view(-1, slots.shape[1], group, parts.shape[1] // group)
            torch.sum(found.mul_(factors[here][..., None]), 1, out=out[here].view(-1, *found.shape[2:]))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Outputs [x C n, g D] and the log-sum-exp of each row's scores [x C n, g]."""
        tiles, group = self.tiles, self.b.shared_by
        shape = (len(tiles.rows), self.b.size * group)
        parts = self.q.new_empty(*shape, self.k.shape[-1])
        peaks, masses = self.q.new_empty(shape), self.q.new_empty(shape)
        for part, own in tiles.groups(self.b.tiles_at_once()):
            blocks = tiles.blocks[part]
            scores = self.scores(self.gather(self.q, part), self.k[blocks], part, own)
            peak = torch.amax(scores, -1, out=peaks[part])
            weights = scores.sub_(peak[..., None]).exp_()
            torch.sum(weights, -1, out=masses[part])
            torch.bmm(weights, self.v[blocks], out=parts[part])
        found = peaks.view(-1, group)[tiles.slots].masked_fill_(~tiles.present[..., None], -math.inf)
        peak = found.amax(1, keepdim=True)
        factors = found.sub_(peak).exp_()  # [x C n, T, g]
        mass = (factors * masses.view(-1, group)[tiles.slots]).sum(1, keepdim=True)
        out = torch.empty_like(self.q)
        self.summed(parts.view(-1, out.shape[1]), factors.div_(mass), out)
        return out, mass.log_().add_(peak)[:, 0]

    def backward(self, out: Tensor, lse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the rows [x C n, g D] and of the blocks of keys and values [x N, S, D]."""
        tiles, b, dim = self.tiles, self.b, self.k.shape[-1]
        given = self.rows(grad)
        delta = self.rows(out).mul_(given).view(-1, b.shared_by, dim).sum(-1)  # [x C n, g]
        shape = (len(tiles.rows), b.size * b.shared_by, dim)
        dq_parts, dk, dv = self.q.new_empty(shape), torch.zeros_like(self.k), torch.zeros_like(self.v)
        for part, own in tiles.groups(b.tiles_at_once()):
            blocks = tiles.blocks[part]
            q, g = self.gather(self.q, part), self.gather(given, part)
            k, v = self.k[blocks], self.v[blocks]
            # An empty slot has no weight, whatever row it repeats.
            lse_part = lse[tiles.rows[part]].masked_fill_(tiles.empty[part][..., None], math.inf)
            weights = self.scores(q, k, part, own).sub_(lse_part.flatten(1)[..., None]).exp_()
            add_at(dv, blocks, torch.bmm(weights.transpose(1, 2), g))
            d_scores = torch.bmm(g, v.transpose(1, 2))
            d_scores.sub_(self.gather(delta, part)).mul_(weights)
            torch.bmm(d_scores, k, out=dq_parts[part])
            add_at(dk, blocks, torch.bmm(d_scores.transpose(1, 2), q))
        dq = torch.empty_like(self.q)
        self.summed(dq_parts.view(-1, dq.shape[1]), None, dq)
        return dq.mul_(self.scale), dk, dv


def add_at(total: Tensor, index: Tensor, part: Tensor) -> None:
    """total[index[i]] += part[i]; the sum has one order on every device."""
    if total.is_cuda:
        total.index_put_((index,), part, accumulate=True)  # sorts, where index_add_ is atomic
    else:
        total.index_add_(0, index, part)


def _run(b: Blocks, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Output [B, H, n, D] and log-sum-exp [X, C n, g]."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    rows = b.of_queries(out)
    lse_shape = (b.heads, rows.shape[1] * rows.shape[2], b.shared_by)
    lse = torch.empty(lse_shape, dtype=b.dtype, device=q.device)
    step = b.heads_at_once()
    for start in range(0, b.heads, step):
        at = slice(start, start + step)
        part, lse_part = _Heads(b, at, q, k, v, chosen).forward()
        rows[at] = part.view(rows[at].shape)
        lse[at] = lse_part.view(lse[at].shape)
    return out, lse


class _Selected(torch.autograd.Function):
    """Recomputes the tiles in the backward pass; the choice itself has no gradient."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, b: Blocks) -> Tensor:
        out, lse = _run(b, q, k, v, chosen)
        ctx.save_for_backward(q, k, v, chosen, out, lse)
        ctx.blocks = b
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, chosen, out, lse = ctx.saved_tensors
        b: Blocks = ctx.blocks
        grad = grad.contiguous()
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        rows, n = b.of_queries(dq), b.w.seq_len
        step = b.heads_at_once()
        for start in range(0, b.heads, step):
            at = slice(start, start + step)
            heads = _Heads(b, at, q, k, v, chosen)
            q_part, *key_parts = heads.backward(out, lse[at].flatten(0, 1), grad)
            rows[at] = q_part.view(rows[at].shape)
            for whole, part in zip((dk, dv), key_parts, strict=True):
                here = whole.view(b.heads, n, -1)[at]
                here.copy_(part.view(here.shape[0], -1, part.shape[-1])[:, :n])
        return dq, dk, dv, None, None


def selected_attention(b: Blocks) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Attention of q, k, v and a choice [X, C, n, T - 1]; derivable where the phase asks for it."""

    def attend(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        if b.w.phase == "forward":
            return _run(b, q, k, v, chosen)[0]
        out: Tensor = _Selected.apply(q, k, v, chosen, b)  # type: ignore[no-untyped-call]
        return out

    return attend


def selected_pairs(w: Workload, block: int, seen: int) -> int:
    """Query-key pairs per head: exact when causal, for the past is whole; else up to a short block."""
    n, count = w.seq_len, -(-w.seq_len // block)
    seen = min(seen, count)
    if not w.causal:
        return n * min(n, seen * block)
    pairs = 0
    for t in range(count):
        rows = min(block, n - t * block)
        pairs += rows * min(t, seen - 1) * block + rows * (rows + 1) // 2
    return pairs


def selected_bytes(b: Blocks) -> int:
    """Workspace of `selected_attention` for a choice that exists already."""
    w, x = b.w, b.heads_at_once()
    rows = x * b.chosen_by * w.seq_len
    pairs = rows * b.seen
    tiles = x * b.count * b.chosen_by + -(-rows * (b.seen - 1) // b.size) + x * b.count // 2
    slots, width = tiles * b.size, b.shared_by * w.head_dim
    index = 8 * (5 * pairs + 2 * slots)
    copied = w.element_bytes < 4 or b.count * b.size != w.seq_len
    keys = 2 * x * b.count * b.size * w.head_dim
    held = slots * (width + 2 * b.shared_by) + 2 * rows * width + (keys if copied else 0)
    group = b.tiles_at_once() * b.size * (b.shared_by * (b.size + w.head_dim) + 2 * w.head_dim)
    group = min(group, 2 * slots * width)
    if w.phase == "forward_backward":
        held += rows * width + keys
        group *= 2
    return index + b.dtype.itemsize * (held + group)
