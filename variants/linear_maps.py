"""Linear attention by maps without parameters: the identity, relu, and relu with cosine weights.

Dimensions: H query heads, Hk key/value heads, G = H/Hk, L seq_len, Lk key length, D head dim, C chunk,
N batch * Hk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import Computes, Limit, Workload
from subquad.variants.engines.feature_sums import FeatureMap, FeatureSums
from subquad.variants.engines.recurrence import Here


class _Identity(FeatureSums):
    normalised = False

    def queries(self, q: Tensor, here: Here) -> Tensor:
        return q * (1 / math.sqrt(q.shape[2]))

    def keys(self, k: Tensor, here: Here) -> Tensor:
        return k


@dataclass(frozen=True)
class LinearIdentity(FeatureMap):
    """out_i = sum_j (q_i.k_j) / sqrt(D) v_j: attention without its softmax, not normalised; F = D."""

    name: ClassVar[str] = "linear_identity"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Schlag et al. 2021, Linear Transformers Are Secretly Fast Weight Programmers, "
        "arXiv 2102.11174, section 3.1, equations 5-8 (softmax left out)"
    )

    def recurrence(self, w: Workload) -> FeatureSums:
        return _Identity()

    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1) / math.sqrt(w.head_dim)

    def limits(self) -> list[Limit]:
        """Retention that forgets nothing."""
        from subquad.variants.linear_retention import LinearRetention

        return [Limit(self, LinearRetention(gamma=1.0), Workload(2, 2, 150, 16, causal=True))]


class _Relu(FeatureSums):
    def queries(self, q: Tensor, here: Here) -> Tensor:
        return q.relu()

    def keys(self, k: Tensor, here: Here) -> Tensor:
        return k.relu()


@dataclass(frozen=True)
class LinearRelu(FeatureMap):
    """out_i = sum_j w_ij v_j / sum_j w_ij with w_ij = relu(q_i).relu(k_j); F = D.

    A query that shares no positive feature with any key gives zeros. No w_ij is negative, so the sum
    is zero only where every weight is, in any dtype.
    """

    name: ClassVar[str] = "linear_relu"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Qin et al. 2022, cosFormer, arXiv 2202.08791, section 3.1-3.2"

    def recurrence(self, w: Workload) -> FeatureSums:
        return _Relu()

    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        return q.relu() @ k.relu().transpose(-2, -1)

    def limits(self) -> list[Limit]:
        return _one_key(self)


class _Cosine(FeatureSums):
    """phi(x) at position p: relu(x) cos(a_p) and relu(x) sin(a_p), a_p = pi/2 p/M; none is negative."""

    def __init__(self, w: Workload) -> None:
        self.group = w.heads // w.key_heads
        angles = _angles(torch.arange(max(w.seq_len, w.key_len), device=w.device), w)
        waves = torch.stack([angles.cos(), angles.sin()], dim=1)  # [M, 2]
        self.waves = waves.to(torch.promote_types(w.torch_dtype, torch.float32))

    def width(self, dim: int) -> int:
        return 2 * dim

    def queries(self, q: Tensor, here: Here) -> Tensor:
        return self._features(q, here.at, self.group)

    def keys(self, k: Tensor, here: Here) -> Tensor:
        return self._features(k, here.at, 1)

    def _features(self, x: Tensor, at: int, group: int) -> Tensor:
        size = x.shape[1] // group
        rows = torch.unflatten(x.relu(), 1, (group, size)).unsqueeze(3)  # [N, G, C, 1, D]
        return (rows * self.waves[at : at + size, :, None]).flatten(3, 4).flatten(1, 2)


def _angles(positions: Tensor, w: Workload) -> Tensor:
    return positions.double() * (math.pi / 2 / max(w.seq_len, w.key_len))


@dataclass(frozen=True)
class LinearCosformer(FeatureMap):
    """out_i = sum_j w_ij v_j / sum_j w_ij, w_ij = relu(q_i).relu(k_j) cos(pi/2 (i - j) / M); F = 2 D.

    M = max(L, Lk), so no weight is negative; causal queries are at position i + Lk - L. A query that
    shares no positive feature with any key gives zeros.
    """

    name: ClassVar[str] = "linear_cosformer"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = "Qin et al. 2022, cosFormer, arXiv 2202.08791, section 3.3"

    def recurrence(self, w: Workload) -> FeatureSums:
        return _Cosine(w)

    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        at = rows + (w.key_len - w.seq_len if w.causal else 0)
        apart = at[:, None] - torch.arange(w.key_len, device=rows.device)
        return q.relu() @ k.relu().transpose(-2, -1) * _angles(apart, w).cos().to(q.dtype)

    def limits(self) -> list[Limit]:
        return _one_key(self)


def _one_key(variant: FeatureMap) -> list[Limit]:
    """One key only; with 64 dimensions q and k have a positive one in common."""
    from subquad.variants.full_naive import FullNaive

    return [Limit(variant, FullNaive(), Workload(2, 2, 1, 64, c)) for c in (False, True)]
