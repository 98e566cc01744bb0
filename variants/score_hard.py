"""Hard attention: one key for each query, with two ways to derive what has no derivative.

Dimensions: B batch, H query heads, Hk key/value heads, G = H/Hk, L queries, Lk keys, D head dim,
N key heads and C queries of a step, M keys they see, R sampled rows.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from subquad.contract import (
    AttentionFn,
    Computes,
    Cost,
    Limit,
    OracleFn,
    Variant,
    Workload,
    at_least,
    one_of,
    repeat_heads,
)
from subquad.variants.engines.query_chunks import Chunk, Form, QueryChunks, chunks_bytes

GRADIENTS = ("straight_through", "reinforce")
LOW_32 = 0xFFFFFFFF


def mixed(x: Tensor) -> Tensor:
    """Numbers below 2^32 mixed by two rounds of shift and multiply, with Wellons' constants of 2018."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & LOW_32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & LOW_32
    return x ^ (x >> 16)


def uniforms(seed: int, element: Tensor, head: Tensor, position: Tensor) -> Tensor:
    """float64 in (0, 1), a function of what each is for: no order of drawing, no length."""
    x = mixed(mixed(mixed(element + (seed & LOW_32)) + head) + position)
    return (x.double() + 0.5) / 2.0**32


def chosen_keys(scores: Tensor, draws: Tensor | None) -> Tensor:
    """The key of each row of float64 scores [..., M], -inf where hidden; int64 [..., 1].

    Without draws the largest score, the lowest index where several are equal. With draws [..., 1] a
    sample of the softmax: the first key up to which more than the drawn share of weight lies.
    """
    if draws is None:
        return scores.argmax(-1, keepdim=True)
    mass = scores.softmax(-1).cumsum(-1)
    return (mass <= draws * mass[..., -1:]).sum(-1, keepdim=True)


def taken_values(gradient: str, scores: Tensor, chosen: Tensor, v: Tensor) -> Tensor:
    """Values at the chosen keys [..., R, D], with the gradient asked for.

    `straight_through`: weights are one-hot, and their derivative is that of softmax(scores).
    `reinforce`: the loss taken as linear in each output, d loss = (d out . value) d log p(chosen).
    """
    taken = v.gather(-2, chosen.expand(*chosen.shape[:-1], v.shape[-1]))
    if gradient == "reinforce":
        log_p = scores.log_softmax(-1).gather(-1, chosen)
        return taken + taken.detach() * (log_p - log_p.detach())
    soft = scores.softmax(-1)
    return taken + (soft - soft.detach()) @ v.detach()


@dataclass(frozen=True)
class ScoreHard(Variant):
    """out_i = v_j of one key j, by the scores s_ij = q_i . k_j / (temperature sqrt(D)).

    `gradient` straight_through: j is the largest score, and the gradient of q and k is that of
    softmax(s). `reinforce`: j is a sample of softmax(s), drawn from `seed`, and the gradient is the
    score-function estimator without a baseline, unbiased for softmax attention where the loss is
    linear in the output. Either way the gradient of a value goes to the keys that were taken.
    The choice is made in float64, so that it does not hang on how a product was cut; `rows` at a time.
    """

    gradient: str = "straight_through"
    temperature: float = 1.0
    seed: int = 0
    rows: int = 256

    name: ClassVar[str] = "score_hard"
    family: ClassVar[str] = "score"
    computes: ClassVar[Computes] = "different"
    source: ClassVar[str] = (
        "Xu et al. 2015, Show, Attend and Tell, arXiv 1502.03044, section 4.1; straight-through: "
        "Bengio et al. 2013, arXiv 1308.3432, section 2.3"
    )

    def __post_init__(self) -> None:
        one_of("gradient", self.gradient, GRADIENTS)
        at_least("rows", self.rows, 1)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def prepare(self, w: Workload) -> AttentionFn:
        return QueryChunks.of(w, self._form(w), self.rows)

    def _form(self, w: Workload) -> Form:
        scale = self._scale(w)

        def form(c: Chunk) -> Tensor:
            with torch.no_grad():
                exact = torch.bmm(c.q.flatten(1, 2).double(), c.k.transpose(1, 2).double())
                chosen = chosen_keys(c.hide(exact).mul_(scale), self._draws(w, c))
            if c.q.requires_grad:
                return taken_values(self.gradient, c.scores() * scale, chosen, c.v)
            return c.v.gather(1, chosen.expand(-1, -1, c.v.shape[2]))

        return form

    def _scale(self, w: Workload) -> float:
        return 1 / (self.temperature * math.sqrt(w.head_dim))

    def _draws(self, w: Workload, c: Chunk) -> Tensor | None:
        """[N, G C, 1], None where nothing is drawn."""
        if self.gradient != "reinforce":
            return None
        heads, group, queries = c.q.shape[:3]
        index = torch.arange(c.head, c.head + heads, device=c.q.device)[:, None, None]
        head = index % w.key_heads * group + torch.arange(group, device=c.q.device)[:, None]
        position = torch.arange(c.at, c.at + queries, device=c.q.device)
        draws = uniforms(self.seed, index // w.key_heads, head, position)
        return draws.flatten(1)[..., None]

    def oracle(self, w: Workload) -> OracleFn:
        scale, ahead = self._scale(w), w.key_len - w.seq_len if w.causal else 0

        def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor) -> Tensor:
            q, k, v = q[:, :, rows], repeat_heads(k, w.heads), repeat_heads(v, w.heads)
            mask = self.mask(w, rows)

            def scores(q: Tensor, k: Tensor) -> Tensor:
                found = q @ k.transpose(-2, -1) * scale
                return found if mask is None else found.masked_fill(~mask, -math.inf)

            draws = None
            if self.gradient == "reinforce":
                element = torch.arange(len(q), device=q.device)[:, None, None]
                head = torch.arange(w.heads, device=q.device)[:, None]
                draws = uniforms(self.seed, element, head, rows + ahead)[..., None]
            with torch.no_grad():
                chosen = chosen_keys(scores(q.double(), k.double()), draws)
            return taken_values(self.gradient, scores(q, k), chosen, v)

        return attend

    def workspace_bytes(self, w: Workload) -> int:
        """Scores in float64 beside those of the chunk; a sample needs their sums too."""
        forward = 8 if self.gradient == "reinforce" else 4
        return chunks_bytes(w, self.rows, forward=forward, backward=8)

    def cost(self, w: Workload) -> Cost:
        """One product of scores, and a row of values moved for each query."""
        found = super().cost(w)
        return replace(found, flops=found.flops // 2)

    def limits(self) -> list[Limit]:
        """A softmax of scores 10^5 times larger takes the largest; so does a sample of it.

        Keys within 10^-4 of the largest would share the weight: none here comes so near.
        """
        from subquad.variants.score_dot import ScoreDot

        w = Workload(1, 2, 37, 16, causal=False)
        pairs = [(self, ScoreDot()), (replace(self, gradient="reinforce"), ScoreHard())]
        return [
            Limit(variant, equals, replace(w, causal=causal), key_scale=1e5, tolerance=1e-5)
            for variant, equals in pairs
            for causal in (False, True)
        ]
