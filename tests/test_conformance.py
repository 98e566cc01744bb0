"""Every built-in variant passes conformance; planted faults do not."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from unittest import SkipTest

import pytest
import torch

from subquad import conformance as c
from subquad.contract import (
    PHASES,
    Cost,
    Decoder,
    Limit,
    OracleFn,
    Supports,
    Variant,
    Workload,
    softmax_attention,
)
from subquad.discover import discover
from subquad.variants.engines.kv_cache import KvCache

# Each workload costs flex_attention seconds of compilation: it gets the checks that tell most.
FEW_WORKLOADS = (
    c.check_declares_itself,
    c.check_equals_its_oracle,
    c.check_causal_ignores_the_future,
    c.check_batch_mates_are_ignored,
    c.check_inputs_are_not_modified,
    c.check_same_seed_same_bits,
    c.check_limits,
    c.check_cost,
    c.check_workspace,
    c.check_ragged,
)


BUILTIN = [cls() for cls in discover().variants.values()]
test_builtin = c.conformance(*(v for v in BUILTIN if v.name != "full_flex"))
test_flex = c.conformance(*(v for v in BUILTIN if v.name == "full_flex"), checks=FEW_WORKLOADS)


@dataclass(frozen=True)
class Toy(Variant):
    """Full attention by its own oracle; subclasses plant one fault each."""

    name: ClassVar[str] = "toy_full"
    family: ClassVar[str] = "toy"
    computes: ClassVar = "exact"
    source: ClassVar[str] = "this test"

    def prepare(self, w):
        rows = torch.arange(w.seq_len)
        return lambda q, k, v: self.faulty(w, q, k, v, self.mask(w, rows))

    def faulty(self, w, q, k, v, mask):
        return softmax_attention(q, k, v, mask)

    def workspace_bytes(self, w: Workload) -> int:
        return 4 * w.batch * w.heads * w.seq_len * w.key_len * w.element_bytes


@dataclass(frozen=True)
class WindowOneKeyTooMany(Toy):
    name: ClassVar[str] = "toy_window"
    computes: ClassVar = "restricted"
    window: int = 16

    def mask(self, w, rows):
        ahead = w.key_len - w.seq_len
        distance = rows[:, None] + ahead - torch.arange(w.key_len)
        return (distance < self.window) & (distance >= (0 if w.causal else 1 - self.window))

    def faulty(self, w, q, k, v, mask):
        return softmax_attention(
            q, k, v, replace(self, window=self.window + 1).mask(w, torch.arange(w.seq_len))
        )


@dataclass(frozen=True)
class ScaleDropped(Toy):
    def faulty(self, w, q, k, v, mask):
        return softmax_attention(q * math.sqrt(w.head_dim), k, v, mask)


@dataclass(frozen=True)
class BatchLeaks(Toy):
    def faulty(self, w, q, k, v, mask):
        return softmax_attention(q, k / k.abs().amax(), v, mask)


@dataclass(frozen=True)
class LeaksInTheBatchOnly(Toy):
    """A shared maximum that cancels unless a batch-mate holds NaN."""

    def faulty(self, w, q, k, v, mask):
        return softmax_attention(q, k, v + 0 * v.amax(), mask)


@dataclass(frozen=True)
class MemoryNotWritten(Toy):
    def faulty(self, w, q, k, v, mask):
        scratch = torch.empty_like(v)
        return softmax_attention(q, k, v, mask) + 0 * scratch.sum()


@dataclass(frozen=True)
class InputOverwritten(Toy):
    def faulty(self, w, q, k, v, mask):
        with torch.no_grad():
            q.detach().add_(1e-3)
        return softmax_attention(q, k, v, mask)


@dataclass(frozen=True)
class BufferShared(Toy):
    def prepare(self, w):
        rows, held = torch.arange(w.seq_len), torch.empty(w.query_shape, dtype=w.torch_dtype)
        return lambda q, k, v: held.copy_(softmax_attention(q, k, v, self.mask(w, rows)))


@dataclass(frozen=True)
class NoMaximumTaken(Toy):
    def faulty(self, w, q, k, v, mask):
        k, v = (x.repeat_interleave(w.heads // w.key_heads, 1) for x in (k, v))
        weights = (q @ k.transpose(-2, -1) / math.sqrt(w.head_dim)).exp()
        weights = weights if mask is None else weights * mask
        return weights / weights.sum(-1, keepdim=True) @ v


@dataclass(frozen=True)
class GradientCut(Toy):
    def faulty(self, w, q, k, v, mask):
        return softmax_attention(q, k.detach(), v, mask)


@dataclass(frozen=True)
class PairsMiscounted(Toy):
    def visible_pairs(self, w: Workload) -> int:
        return w.pairs + 1


@dataclass(frozen=True)
class WorkspaceUnderstated(Toy):
    def workspace_bytes(self, w: Workload) -> int:
        return 1024


@dataclass(frozen=True)
class LimitMissed(Toy):
    def limits(self) -> list[Limit]:
        return [Limit(Toy(), ScaleDropped(), Workload(1, 1, 9, 4, causal=True))]


@dataclass(frozen=True)
class UnfixedPerformer(Toy):
    """Positive features with one stabilising maximum over all keys, and an epsilon that feels it.

    The oracle has the maximum too, so that only the claim of causality can fail.
    """

    computes: ClassVar = "different"
    supports: ClassVar[Supports] = Supports(causal=(True,), grouped=False, cross=False)

    def faulty(self, w, q, k, v, mask):
        features = (k - k.amax(dim=(-2, -1), keepdim=True)).exp() + 1e-3
        weights = (q.exp() @ features.transpose(-2, -1)) * mask
        return weights @ v / weights.sum(-1, keepdim=True)

    def oracle(self, w: Workload) -> OracleFn:
        rows = torch.arange(w.seq_len)
        return lambda q, k, v, picked: self.faulty(w, q, k, v, self.mask(w, rows))[:, :, picked]


@dataclass(frozen=True)
class Positive(Toy):
    """Random positive features, exp(x R - |x|^2 / 2); `normed` or without the second term."""

    computes: ClassVar = "different"
    supports: ClassVar[Supports] = Supports(grouped=False, cross=False)
    normed: bool = True

    def features(self, x, normed):
        projection = torch.randn(x.shape[-1], 32, generator=torch.Generator().manual_seed(0))
        x = x / x.shape[-1] ** 0.25
        norm = x.square().sum(-1, keepdim=True) / 2 if normed else 0.0
        return (x @ projection.to(x.dtype) - norm).exp()

    def weighted(self, w, q, k, v, normed, rows):
        mask = self.mask(w, rows)
        weights = self.features(q[:, :, rows], normed) @ self.features(k, normed).transpose(-2, -1)
        weights = weights if mask is None else weights * mask
        return weights @ v / weights.sum(-1, keepdim=True)

    def prepare(self, w):
        rows = torch.arange(w.seq_len)
        return lambda q, k, v: self.weighted(w, q, k, v, self.normed, rows)

    def oracle(self, w: Workload) -> OracleFn:
        return lambda q, k, v, rows: self.weighted(w, q, k, v, True, rows)


@dataclass(frozen=True)
class StrictlyEarlier(Toy):
    """Keys before the query's own: the first query sees none, and its answer is zero."""

    computes: ClassVar = "restricted"
    supports: ClassVar[Supports] = Supports(causal=(True,), cross=False)

    def mask(self, w, rows):
        return rows[:, None] > torch.arange(w.key_len)

    def visible_pairs(self, w: Workload) -> int:
        return w.seq_len * (w.seq_len - 1) // 2


@dataclass(frozen=True)
class NanWhereNothingIsSeen(StrictlyEarlier):
    def faulty(self, w, q, k, v, mask):
        k, v = (x.repeat_interleave(w.heads // w.key_heads, 1) for x in (k, v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(w.head_dim)
        return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v


@dataclass(frozen=True)
class NanGradientWhereNothingIsSeen(NanWhereNothingIsSeen):
    """The output is mended after the fact, as torch.where does; the gradient goes through NaN."""

    def faulty(self, w, q, k, v, mask):
        out = super().faulty(w, q, k, v, mask)
        return torch.where(mask.any(-1)[:, None], out, 0.0)


@dataclass(frozen=True)
class DenseMaskCalledLinear(WindowOneKeyTooMany):
    """A window as a mask over n x n, with the cost of a window."""

    def cost(self, w: Workload) -> Cost:
        return replace(super().cost(w), exponent=1.0)


@dataclass(frozen=True)
class PaddingRead(Toy):
    """Takes a maximum over the memory that the sequence is a part of."""

    def faulty(self, w, q, k, v, mask):
        whole = k if k._base is None else k._base
        return softmax_attention(q, k, v, mask) + 0 * whole.amax()


@dataclass(frozen=True)
class Decoding(Toy):
    """Full attention with a cache of keys; subclasses spoil the cache."""

    supports: ClassVar[Supports] = Supports(phases=PHASES)

    def decoder(self, w: Workload) -> Decoder:
        return self.cache(w)

    def cache(self, w: Workload, kind: type[KvCache] = KvCache, **kept: int) -> KvCache:
        return kind(w, lambda n: self.prepare(replace(w, seq_len=n)), softmax_attention, **kept)


@dataclass(frozen=True)
class PositionForgotten(Decoding):
    def decoder(self, w: Workload) -> Decoder:
        return self.cache(w, window=max(1, w.seq_len - 1))


@dataclass(frozen=True)
class StateUnderstated(Decoding):
    def cost(self, w: Workload) -> Cost:
        cost = super().cost(w)
        return replace(cost, state_bytes=(cost.state_bytes or 0) // 2)


class _Growing(KvCache):
    """Adds each key to its slot, so that a step taken again adds it again."""

    def start(self) -> tuple[Any, ...]:
        keys, values, at = super().start()
        return keys.zero_(), values.zero_(), at

    def step(self, state: Any, q: Any, k: Any, v: Any, **extra: Any) -> Any:
        return super().step(state, q, k + state[0][:, :, state[2]][:, :, None], v, **extra)


@dataclass(frozen=True)
class StepNotRepeatable(Decoding):
    def decoder(self, w: Workload) -> Decoder:
        return self.cache(w, _Growing)


@pytest.mark.parametrize(
    "variant",
    [Toy(), StrictlyEarlier(), Decoding()],
    ids=lambda v: type(v).__name__,
)
def test_a_sound_toy_passes_every_check(variant: Variant) -> None:
    skipped = {c.check_limits, c.check_decode, c.check_cross_lengths}
    for check in c.CHECKS:
        try:
            check(variant)
        except SkipTest:
            assert check in skipped


@pytest.mark.parametrize(
    ("variant", "check"),
    [
        (WindowOneKeyTooMany(), c.check_equals_its_oracle),
        (ScaleDropped(), c.check_equals_its_oracle),
        (BatchLeaks(), c.check_batch_mates_are_ignored),
        (LeaksInTheBatchOnly(), c.check_batch_mates_are_ignored),
        (MemoryNotWritten(), c.check_scratch_memory_is_written_first),
        (InputOverwritten(), c.check_inputs_are_not_modified),
        (BufferShared(), c.check_second_call_same_bits),
        (NoMaximumTaken(), c.check_large_scores_stay_finite),
        (GradientCut(), c.check_gradient_equals_its_oracle),
        (PairsMiscounted(), c.check_cost),
        (WorkspaceUnderstated(), c.check_workspace),
        (LimitMissed(), c.check_limits),
        (UnfixedPerformer(), c.check_causal_ignores_the_future),
        (Positive(normed=False), c.check_equals_its_oracle),
        (NanWhereNothingIsSeen(), c.check_shape_and_dtype),
        (NanWhereNothingIsSeen(), c.check_equals_its_oracle),
        (NanGradientWhereNothingIsSeen(), c.check_gradient_equals_its_oracle),
        (DenseMaskCalledLinear(), c.check_growth),
        (PaddingRead(), c.check_ragged),
        (PositionForgotten(), c.check_decode),
        (StateUnderstated(), c.check_decode),
        (StepNotRepeatable(), c.check_decode),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Variant) else x.__name__,
)
def test_a_planted_fault_fails_its_check(variant: Variant, check: c.Check) -> None:
    with pytest.raises(AssertionError):
        check(variant)


def test_faults_that_only_one_check_sees_pass_the_others() -> None:
    """A mended output hides a NaN gradient, and a true step hides the bytes of its state."""
    c.check_equals_its_oracle(NanGradientWhereNothingIsSeen())
    c.check_equals_its_oracle(PaddingRead())
    c.check_equals_its_oracle(Positive(normed=True))
    with pytest.raises(AssertionError, match=r"cost.state_bytes says \d+, the state holds"):
        c.check_decode(StateUnderstated())
    with pytest.raises(AssertionError, match="decoded twice, two answers"):
        c.check_decode(StepNotRepeatable())


def test_a_global_maximum_leaks_when_scaled() -> None:
    with pytest.raises(AssertionError, match="scaled by 3"):
        c.check_causal_ignores_the_future(replace_resampling_with_nothing(UnfixedPerformer()))


def replace_resampling_with_nothing(variant: Variant) -> Variant:
    """The same fault, too small to see unless the future grows."""

    class Subtle(type(variant)):  # type: ignore[misc]
        def faulty(self, w, q, k, v, mask):
            features = (k - k.amax(dim=(-2, -1), keepdim=True).clamp(min=6.0)).exp() + 1e-3
            weights = (q.exp() @ features.transpose(-2, -1)) * mask
            return weights @ v / weights.sum(-1, keepdim=True)

    return Subtle()


def test_a_missing_package_skips_with_its_name() -> None:
    class Needy(Toy):
        requires: ClassVar[tuple[str, ...]] = ("no-such-package>=1",)

    with pytest.raises(SkipTest, match="needs no-such-package>=1"):
        c.check_equals_its_oracle(Needy())
