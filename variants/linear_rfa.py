"""Random feature attention: a Gaussian kernel of unit vectors, estimated with sines and cosines.

Dimensions: D head dim, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import Computes, Limit, Workload, at_least
from subquad.variants.engines.feature_sums import FeatureMap, FeatureSums, mean_limits
from subquad.variants.engines.recurrence import Here
from subquad.variants.linear_performer import draw_directions

SHORTEST = 1e-6  # a vector below this length is divided by it: the zero vector stays zero


def phi(x: Tensor, directions: Tensor) -> Tensor:
    """sin(w.u) and cos(w.u) of the unit vectors u = x / |x|, [..., F]; directions w [F / 2, D]."""
    waves = (x / x.norm(dim=-1, keepdim=True).clamp(min=SHORTEST)) @ directions.T
    return torch.cat([waves.sin(), waves.cos()], dim=-1)


class _Waves(FeatureSums):
    block = None

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions

    def width(self, dim: int) -> int:
        return 2 * len(self.directions)

    def queries(self, q: Tensor, here: Here) -> Tensor:
        return phi(q, self.directions)

    def keys(self, k: Tensor, here: Here) -> Tensor:
        return phi(k, self.directions)


@dataclass(frozen=True)
class LinearRfa(FeatureMap):
    """out_i = sum_j w_ij v_j / sum_j w_ij, w_ij the mean of cos(d.(q_i/|q_i| - k_j/|k_j|)) over d.

    The F/2 directions are normal, independent and divided by `sigma`, drawn from `seed`, so that w_ij
    is an unbiased estimate of exp(-|u - u'|^2 / (2 sigma^2)) = exp((u.u' - 1) / sigma^2) for unit
    vectors u, u'. A weight is off by about 1 / sqrt(F) and may be negative where the kernel is as
    small as that. Nothing is clamped: with sigma = 1 the kernel is at least exp(-2) = 0.135, and the
    sum over a few keys well above zero. A smaller `sigma` needs more `features`. The gate of the
    paper is left out.
    """

    name: ClassVar[str] = "linear_rfa"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Peng et al. 2021, Random Feature Attention, arXiv 2103.02143, section 3.1, equations 4-5"
    )

    stretch: ClassVar[int] = 1  # many features: a longer chunk leaves the cache

    chunk: int = 128
    features: int = 256
    sigma: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("features", self.features, 2)
        if self.features % 2:
            raise ValueError(f"features must be even (a sine and a cosine each), got {self.features}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be > 0, got {self.sigma}")

    def directions(self, w: Workload) -> Tensor:
        """[F / 2, D] in float64."""
        return draw_directions(self.features // 2, w.head_dim, self.seed, "iid") / self.sigma

    def recurrence(self, w: Workload) -> FeatureSums:
        dtype = torch.promote_types(w.torch_dtype, torch.float32)
        return _Waves(self.directions(w).to(w.device, dtype))

    def projected(self, w: Workload) -> int:
        return self.features // 2

    def weights(self, w: Workload, q: Tensor, k: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        directions = self.directions(w).to(q)
        queries, keys = phi(q, directions), phi(k, directions)
        return queries @ keys.transpose(-2, -1) / len(directions)

    def limits(self) -> list[Limit]:
        return mean_limits(self)
