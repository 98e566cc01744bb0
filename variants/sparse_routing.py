"""Routing attention: softmax within clusters of queries and keys.

Dimensions: B batch, H query heads, Hk key/value heads, n seq_len, Lk key length, D head dim,
C clusters, P queries and M keys of a cluster, R query rows; Y heads of all batch elements (B H).
"""

from __future__ import annotations

import math
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
from subquad.variants.engines.selected_blocks import add_at, top

CPU_GATHER = 2**20  # numbers that are gathered at once where no gradient keeps them
CUDA_GATHER = 2**26
ROUTE_SCORES = 2**18  # scores of a head that are compared at once: they stay in the cache
EPS = 1e-5  # of the normalisation


@dataclass(frozen=True)
class SparseRouting(Variant):
    """Each of C centroids takes the P queries and the M keys nearest to it: softmax among those.

    Nearest is the largest inner product of the centroid with the vector without its mean and divided
    by its standard deviation; only the routing sees these normalised vectors. The centroids
    [H, C, D] are learned: C = `clusters`, by default round(sqrt(n)). P = ceil(n / C) and
    M = ceil(Lk / C), so that the clusters are balanced. A query that several clusters took gets the
    mean of their answers, one that none took gets zeros.
    Routing is float64, compared as float32, ties to the lowest position, and has no gradient: in
    training the paper moves the centroids by a running mean, which is no part of the attention.

    Which positions a cluster takes depends on all of them, later ones too. That is why there is no
    causal form: a mask within the clusters, as in the paper, does not keep the future out.
    """

    name: ClassVar[str] = "sparse_routing"
    family: ClassVar[str] = "sparse"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Roy et al. 2020, Routing Transformer, arXiv 2003.05997, section 4"
    supports: ClassVar[Supports] = Supports(causal=(False,))

    clusters: int | None = None

    def __post_init__(self) -> None:
        if self.clusters is not None:
            at_least("clusters", self.clusters, 1)

    def unmet(self, w: Workload) -> list[str]:
        causal = "causal=true (has no causal form)"
        told = "causal=true (which positions a cluster takes depends on the future)"
        return [told if reason == causal else reason for reason in super().unmet(w)]

    def sizes(self, w: Workload) -> tuple[int, int, int]:
        """C, P and M."""
        count = self.clusters or round(math.sqrt(w.seq_len))
        return count, -(-w.seq_len // count), -(-w.key_len // count)

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        shape = (w.heads, self.sizes(w)[0], w.head_dim)
        return {"centroids": TensorSpec(shape, -1.0, 1.0, learned=True)}

    def prepare(self, w: Workload) -> AttentionFn:
        heads, group = w.batch * w.heads, w.heads // w.key_heads
        work = torch.promote_types(w.torch_dtype, torch.float32)
        step = self._heads_at_once(w)
        head = torch.arange(heads, device=w.device)[:, None, None]

        def gather(x: Tensor, first: Tensor, picked: Tensor) -> Tensor:
            """Rows of x [heads, length, D] at picked [Y, C, P or M] in the heads `first`."""
            at = (first * x.shape[1] + picked).flatten()
            found = x.flatten(0, 1).index_select(0, at)
            return found.to(work).view(*picked.shape, x.shape[2])

        def attend_heads(q: Tensor, k: Tensor, v: Tensor, centroids: Tensor, here: slice) -> Tensor:
            """Answers [Y, n, D] of some query heads; q, k and v hold all of theirs as [.., .., D]."""
            first = head[here]
            key_head = first.div(group, rounding_mode="floor")
            with torch.no_grad():
                means = centroids[first.flatten() % w.heads]
                own = q[here].detach()
                took = torch.stack([route(x, m) for x, m in zip(own, means, strict=True)])
                shared = [k[(here.start + i) // group].detach() for i in range(len(first))]
                gave = torch.stack([route(x, m) for x, m in zip(shared, means, strict=True)])
            found = F.scaled_dot_product_attention(
                gather(q, first, took), gather(k, key_head, gave), gather(v, key_head, gave)
            )
            at = ((first - here.start) * w.seq_len + took).flatten()
            times = torch.bincount(at, minlength=len(first) * w.seq_len).clamp_(min=1)
            share = times.to(work).reciprocal_()[at][:, None]
            total = torch.zeros(len(times), w.head_dim, dtype=work, device=q.device)
            add_at(total, at, found.reshape(-1, w.head_dim) * share)
            return total.view(-1, w.seq_len, w.head_dim)

        def attend(q: Tensor, k: Tensor, v: Tensor, centroids: Tensor) -> Tensor:
            q, k, v = (x.flatten(0, 1) for x in (q, k, v))
            if w.phase == "forward_backward":
                out = attend_heads(q, k, v, centroids, slice(0, heads))
                return out.to(w.torch_dtype).view(w.query_shape)
            out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
            for start in range(0, heads, step):
                here = slice(start, start + step)
                out[here] = attend_heads(q, k, v, centroids, here)
            return out.view(w.query_shape)

        return attend

    def oracle(self, w: Workload) -> OracleFn:
        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, centroids: Tensor) -> Tensor:
            k, v = repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            took = route(q.detach(), centroids.detach())  # [B, H, C, P]
            gave = route(k.detach(), centroids.detach())  # [B, H, C, M]
            total = torch.zeros_like(q[:, :, rows])
            times = torch.zeros_like(total[..., :1])
            for c in range(centroids.shape[1]):
                taken = gave[:, :, c, :, None].expand(*gave.shape[:2], -1, w.head_dim)
                answer = softmax_attention(q[:, :, rows], k.gather(2, taken), v.gather(2, taken))
                seen = marked(took[:, :, c], w.seq_len)[:, :, rows, None]  # [B, H, R, 1]
                # Where, not times: what a cluster did not take must not count, even as NaN.
                total = total + torch.where(seen, answer, 0.0)
                times = times + seen
            return total / times.clamp(min=1)

        return attend

    def _heads_at_once(self, w: Workload) -> int:
        """Query heads whose gathered queries, keys and values are held together."""
        count, queries, keys = self.sizes(w)
        if w.phase == "forward_backward":
            return w.batch * w.heads
        budget = CPU_GATHER if w.device == "cpu" else CUDA_GATHER
        gathered = count * (queries + 2 * keys) * w.head_dim
        return min(w.batch * w.heads, max(1, budget // gathered))

    def workspace_bytes(self, w: Workload) -> int:
        """Gathered queries, keys and values, answers and their sum; and the scores of one routing."""
        count, queries, keys = self.sizes(w)
        heads, element = self._heads_at_once(w), max(4, w.element_bytes)
        longest = max(w.seq_len, w.key_len)
        routing = 8 * (3 * longest * w.head_dim + 3 * max(longest, min(longest * count, ROUTE_SCORES)))
        picked = 8 * heads * count * (2 * queries + keys)
        gathered = heads * count * (queries + 2 * keys) * w.head_dim * element
        answers = 3 * heads * count * queries * w.head_dim * element
        if w.phase == "forward_backward":
            gathered *= 2
        return max(routing, gathered + answers + picked)

    def cost(self, w: Workload) -> Cost:
        count, queries, keys = self.sizes(w)
        heads = w.batch * w.heads
        attend = 4 * heads * count * queries * keys * w.head_dim
        route = 2 * heads * count * (w.seq_len + w.key_len) * w.head_dim
        centroids = w.heads * count * w.head_dim * w.element_bytes
        return Cost(
            phase_flops(w, attend) + route,  # the routing has no backward pass
            io_bytes(w) + centroids,
            self.workspace_bytes(w),
            exponent=1.5 if self.clusters is None else 2.0,
        )

    def limits(self) -> list[Limit]:
        """One cluster takes every position."""
        from subquad.variants.full_naive import FullNaive

        return [
            Limit(SparseRouting(1), FullNaive(), w)
            for w in (
                Workload(2, 4, 67, 16, causal=False, kv_heads=2),
                Workload(1, 2, 40, 16, causal=False, kv_len=71),
            )
        ]


def route(x: Tensor, centroids: Tensor) -> Tensor:
    """The ceil(L / C) positions of x [..., L, D] nearest to each centroid [..., C, D], [..., C, P].

    How many clusters there are is the centroids' matter: a shorter sequence of a batch meets those of
    the longest.
    """
    normal = F.layer_norm(x.double(), x.shape[-1:], eps=EPS)
    count = -(-x.shape[-2] // centroids.shape[-2])
    rows = max(1, ROUTE_SCORES // x.shape[-2])
    parts = centroids.double().split_with_sizes(
        [min(rows, centroids.shape[-2] - start) for start in range(0, centroids.shape[-2], rows)], -2
    )
    return torch.cat([top(part @ normal.transpose(-2, -1), count) for part in parts], -2)


def marked(positions: Tensor, length: int) -> Tensor:
    """Positions [..., P] as a mask [..., length]."""
    mask = torch.zeros(*positions.shape[:-1], length, dtype=torch.bool, device=positions.device)
    return mask.scatter_(-1, positions, True)
