"""Linear attention with elu + 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import Computes, Limit, Workload
from subquad.variants.engines.feature_sums import FeatureMap, FeatureSums, mean_limits
from subquad.variants.engines.recurrence import Here


def phi(x: Tensor) -> Tensor:
    """elu(x) + 1, without the cancellation that 1 + expm1(x) has at negative x."""
    # Not relu: its result is kept for the gradient, so it could not be added to in place.
    return torch.threshold(x, 0.0, 0.0).add_(x.clamp(max=0).exp_())


class _Elu(FeatureSums):
    positive = True

    def queries(self, q: Tensor, here: Here) -> Tensor:
        return phi(q)

    def keys(self, k: Tensor, here: Here) -> Tensor:
        return phi(k)


@dataclass(frozen=True)
class LinearElu(FeatureMap):
    """out_i = sum_j w_ij v_j / sum_j w_ij with w_ij = phi(q_i).phi(k_j), phi = elu + 1; F = D."""

    name: ClassVar[str] = "linear_elu"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Katharopoulos et al. 2020, Transformers are RNNs, arXiv 2006.16236, section 3.2-3.3"
    )

    def recurrence(self, w: Workload) -> FeatureSums:
        return _Elu()

    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        return phi(q) @ phi(k).transpose(-2, -1)

    def limits(self) -> list[Limit]:
        return mean_limits(self)
