"""Every built-in variant passes conformance; planted faults do not."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar
from unittest import SkipTest

import pytest
import torch

from subquad import conformance as c
from subquad.contract import Limit, OracleFn, Supports, Variant, Workload, softmax_attention
from subquad.discover import discover

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


def test_the_sound_toy_passes_every_check() -> None:
    for check in c.CHECKS:
        try:
            check(Toy())
        except SkipTest:
            assert check in (c.check_limits, c.check_decode)


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
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Variant) else x.__name__,
)
def test_a_planted_fault_fails_its_check(variant: Variant, check: c.Check) -> None:
    with pytest.raises(AssertionError):
        check(variant)


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
