"""Hedgehog: linear attention by a learned map with softmax over its features.

Dimensions: H query heads, Hk key/value heads, G = H/Hk, D head dim, C chunk, N batch * Hk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import Computes, Limit, TensorSpec, Workload
from subquad.variants.engines.feature_sums import FeatureMap, FeatureSums, mean_limits
from subquad.variants.engines.recurrence import Here


def phi(x: Tensor, matrices: Tensor) -> Tensor:
    """softmax([W x, -W x]) [..., heads, C, 2 D] of x [..., heads, C, D]; W is [heads, D, D]."""
    mapped = x @ matrices.transpose(1, 2)
    return torch.cat([mapped, -mapped], dim=-1).softmax(-1)


class _Hedgehog(FeatureSums):
    learned = ("query_map", "key_map")

    def width(self, dim: int) -> int:
        return 2 * dim

    def queries(self, q: Tensor, here: Here) -> Tensor:
        return self._features(q, here.learned["query_map"], here.learned["key_map"].shape[0])

    def keys(self, k: Tensor, here: Here) -> Tensor:
        return self._features(k, here.learned["key_map"], here.learned["key_map"].shape[0])

    def _features(self, x: Tensor, matrices: Tensor, key_heads: int) -> Tensor:
        count, dim = matrices.shape[:2]
        size = x.shape[1] * key_heads // count
        return phi(x.reshape(-1, count, size, dim), matrices).view(x.shape[0], x.shape[1], 2 * dim)


@dataclass(frozen=True)
class LinearHedgehog(FeatureMap):
    """out_i = sum_j w_ij v_j / sum_j w_ij with w_ij = phi(q_i).phi(k_j), phi(x) = softmax([W x, -W x]).

    W is learned: `query_map` [H, D, D] and `key_map` [Hk, D, D]. The softmax goes over the F = 2 D
    features of one position, so that none is negative and none overflows.
    """

    name: ClassVar[str] = "linear_hedgehog"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Zhang et al. 2024, The Hedgehog and the Porcupine, arXiv 2402.04347, section 4 "
        "(the form with softmax over the features)"
    )

    def extra_inputs(self, w: Workload) -> dict[str, TensorSpec]:
        """Maps that keep the size of what they map: the variance of an entry is 1/D."""
        bound, square = math.sqrt(3 / w.head_dim), (w.head_dim, w.head_dim)
        return {
            "query_map": TensorSpec((w.heads, *square), -bound, bound, learned=True),
            "key_map": TensorSpec((w.key_heads, *square), -bound, bound, learned=True),
        }

    def recurrence(self, w: Workload) -> FeatureSums:
        return _Hedgehog()

    def projected(self, w: Workload) -> int:
        return w.head_dim

    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        group = w.heads // w.key_heads
        key_map = extra["key_map"].repeat_interleave(group, dim=0)
        return phi(q, extra["query_map"]) @ phi(k, key_map).transpose(-2, -1)

    def limits(self) -> list[Limit]:
        return mean_limits(self)
