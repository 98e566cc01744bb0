"""Based: linear attention by the second-order Taylor series of exp, and softmax in a window.

Dimensions: H query heads, Hk key/value heads, G = H/Hk, L seq_len, Lk key length, D head dim,
F features, W window, C chunk, N batch * Hk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, bmm

from subquad.contract import Computes, Limit, Workload, at_least
from subquad.variants.engines.feature_sums import FeatureMap, FeatureSums, divided, dots, mean_limits
from subquad.variants.engines.recurrence import Here, State


def series(s: Tensor) -> Tensor:
    """1 + s + s^2 / 2, which is never below 1/2."""
    return (s + 1).square() * 0.5 + 0.5


class _Taylor(FeatureSums):
    """The features are the products of two of (1, x), each pair once: (D + 1)(D + 2) / 2.

    Squares come first. A query takes x / sqrt(D), and half of its squares but that of 1: a pair of
    different ones counts twice in the series, with the factor 1/2.
    """

    block = None

    def __init__(self, w: Workload) -> None:
        alike = torch.arange(w.head_dim + 1, device=w.device).expand(2, -1)
        pairs = torch.triu_indices(w.head_dim + 1, w.head_dim + 1, offset=1, device=w.device)
        self.pairs = torch.cat([alike, pairs], dim=1)  # [2, F]
        self.scale = w.head_dim**-0.5

    def width(self, dim: int) -> int:
        return (dim + 1) * (dim + 2) // 2

    def queries(self, q: Tensor, here: Here) -> Tensor:
        features = self._products(q * self.scale)
        features[:, :, 1 : q.shape[2] + 1] *= 0.5
        return features

    def keys(self, k: Tensor, here: Here) -> Tensor:
        return self._products(k)

    def _products(self, x: Tensor) -> Tensor:
        """[N, rows, F], laid out by features: whole rows are gathered."""
        columns = torch.nn.functional.pad(x, (1, 0), value=1.0).transpose(1, 2).contiguous()
        left, right = (columns.index_select(1, index) for index in self.pairs)
        return (left * right).transpose(1, 2)

    def own(self, q: Tensor, k: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        return series(bmm(q * self.scale, k.transpose(1, 2)))

    def token(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        """The own key apart: its series does not cancel, as the sum over its features may."""
        return self.step(state, q, k, v, here)


class _Windowed(_Taylor):
    """State: besides the sums, the last W - 1 keys and values, which are not in the sums yet.

    Positions before the first key hold zeros there. What multiplies all weights of a query cancels:
    each drops its largest score in the window, and no less than 0 where it sees keys beyond it.
    """

    def __init__(self, w: Workload, window: int) -> None:
        super().__init__(w)
        self.kept = min(window, w.key_len) - 1

    def start(self, v: Tensor) -> State:
        heads, _, dim = v.shape
        recent = v.new_zeros(heads, self.kept, dim)
        return *super().start(v), recent, recent.clone()

    def absorb(self, state: State, k: Tensor, v: Tensor, here: Here) -> State:
        return self._shift(state, *self._reached(state, k, v), here)

    def step(self, state: State, q: Tensor, k: Tensor, v: Tensor, here: Here) -> tuple[Tensor, State]:
        keys, values = self._reached(state, k, v)
        scores = bmm(q * self.scale, keys.transpose(1, 2))
        scores = torch.unflatten(scores, 1, (-1, k.shape[1]))  # [N, G, C, W - 1 + C]
        row = torch.arange(k.shape[1], device=q.device)[:, None]
        column = torch.arange(keys.shape[1], device=q.device)
        there = column >= self.kept - here.at
        near = there & (column >= row) & (column <= row + self.kept)
        inside = scores.masked_fill(~near, -math.inf)
        beyond = row + here.at > self.kept  # [C, 1]
        top = inside.detach().amax(3, keepdim=True)
        top = torch.where(beyond, top.clamp(min=0), top)
        factor = (-top).masked_fill(~beyond, -math.inf).exp()  # [N, G, C, 1]
        outside = (series(scores) * factor).masked_fill(~(there & (column < row)), 0.0)
        own = ((inside - top).exp() + outside).flatten(1, 2)
        factor, queries = factor.flatten(1, 2), self.queries(q, here)
        out = bmm(own, values) + bmm(queries, state[0]) * factor
        total = own.sum(2, keepdim=True) + dots(queries, state[1]) * factor
        return divided(out, total), self._shift(state, keys, values, here)

    def _reached(self, state: State, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the window and the chunk, [N, W - 1 + C, D]."""
        return torch.cat([state[2], k], dim=1), torch.cat([state[3], v], dim=1)

    def _shift(self, state: State, keys: Tensor, values: Tensor, here: Here) -> State:
        size = keys.shape[1] - self.kept
        first = min(size, max(0, self.kept - here.at))  # before it are no keys but zeros
        leaving = self.keys(keys[:, first:size], here)
        sums = self._add(state[:2], leaving, values[:, first:size])
        # Clones, since a slice would keep the whole alive.
        return *sums, keys[:, size:].clone(), values[:, size:].clone()


@dataclass(frozen=True)
class LinearTaylor(FeatureMap):
    """out_i = sum_j w_ij v_j / sum_j w_ij, w_ij = 1 + s + s^2 / 2 with s = q_i.k_j / sqrt(D).

    With `window` W > 0 (causal only) pairs with i - j < W take w_ij = exp(s) instead, in the same
    sum. F = (D + 1)(D + 2) / 2 features, of the whole head (the paper projects q and k to 16
    dimensions before): 153 at D = 16, 2145 at D = 64.
    """

    name: ClassVar[str] = "linear_taylor"
    computes: ClassVar[Computes] = "approximate"
    source: ClassVar[str] = "Arora et al. 2024, Based, arXiv 2402.18668, section 4.1-4.2"

    stretch: ClassVar[int] = 1  # many features: a longer chunk leaves the cache

    window: int = 0
    chunk: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("window", self.window, 0)

    def unmet(self, w: Workload) -> list[str]:
        both_sides = self.window > 0 and not w.causal
        told = [f"causal=false (window={self.window} is only causal, window=0 is both)"]
        return super().unmet(w) + (told if both_sides else [])

    def recurrence(self, w: Workload) -> FeatureSums:
        return _Windowed(w, self.window) if self.window else _Taylor(w)

    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(w.head_dim)
        if not self.window:
            return 1 + scores + scores.square() / 2
        position = (rows + w.key_len - w.seq_len)[:, None]
        apart = position - torch.arange(w.key_len, device=rows.device)
        inside = scores.masked_fill((apart < 0) | (apart >= self.window), -math.inf)
        # A row's weights without a common factor, so that the largest exponential is 1.
        top = inside.amax(-1, keepdim=True)
        beyond = position >= self.window
        top = torch.where(beyond, top.clamp(min=0), top).detach()
        series = (1 + scores + scores.square() / 2) * (-top).masked_fill(~beyond, -math.inf).exp()
        return torch.where(apart < self.window, (inside - top).exp(), series)

    def state_bytes(self, w: Workload) -> int:
        """The sums, and with a window its keys and values but the last."""
        recent = 2 * max(0, min(self.window, w.key_len) - 1) * w.head_dim
        return super().state_bytes(w) + w.batch * w.key_heads * recent * max(4, w.element_bytes)

    def workspace_bytes(self, w: Workload) -> int:
        """Besides the tensors of every map: the gathered features and the scores in the window."""
        rows, size = min(self.rows(w), w.key_len), max(4, w.element_bytes)
        features = self.recurrence(w).width(w.head_dim)
        more = 2 * features + 4 * min(self.window, w.key_len)
        return super().workspace_bytes(w) + w.batch * w.heads * rows * more * size

    def limits(self) -> list[Limit]:
        """As for every normalised map; small scores; a window over everything."""
        from subquad.variants.full_naive import FullNaive

        full, modes = FullNaive(), (True,) if self.window else (False, True)
        small = (Workload(2, 2, 150, 16, c) for c in modes)
        whole = Workload(2, 2, 150, 16, causal=True, phase="forward_backward")
        return [
            *(limit for limit in mean_limits(self) if limit.workload.causal in modes),
            # exp is off by s^3 / 6, 1e-6 of a weight at the scores of 0.02 here.
            *(Limit(self, full, w, key_scale=1e-2, tolerance=2e-6) for w in small),
            Limit(LinearTaylor(window=150, chunk=self.chunk), full, whole),
        ]
