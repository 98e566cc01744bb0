"""What every variant must pass, as pytest tests or called one by one.

    from subquad.conformance import conformance
    test_mine = conformance(MyVariant())

Each `check_<name>` is a `Check`: called with a variant it holds one claim on one workload after the
other, raises AssertionError with what is wrong, and raises unittest.SkipTest (a skip to pytest too)
with the reasons where the variant runs no such workload.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args
from unittest import SkipTest

import torch
from torch import Tensor

from subquad import answer
from subquad.contract import Computes, Limit, Phase, TensorSpec, Variant, Workload
from subquad.discover import missing_requirements
from subquad.oracle import (
    Results,
    draw_weight,
    evaluate,
    evaluate_oracle,
    gate,
    plain_error,
    relative_error,
    tolerance,
)
from subquad.probes.memory import allocator_peak
from subquad.probes.work import WorkCounter

Claim = Callable[[Variant, Workload], None]
Inputs = tuple[Tensor, Tensor, Tensor]
Extra = dict[str, Tensor]

LENGTHS = (1, 63, 257, 1000)
DERIVED: tuple[Phase, ...] = ("forward", "forward_backward")
BASE = Workload(batch=2, heads=4, seq_len=67, head_dim=16, causal=False)


@dataclass(frozen=True)
class Check:
    """One claim, held on one workload after the other.

    `on` raises AssertionError where the claim fails on a workload; `asked` gives the workloads of a
    variant, of which those it can run are taken. Where `shrinks`, the claim must hold at any workload,
    so that a failing one may be made smaller. Where not `runs`, the variant is read and not run.
    """

    name: str
    claim: str
    on: Claim
    asked: Callable[[Variant], Sequence[Workload]]
    shrinks: bool = True
    runs: bool = True

    def __call__(self, variant: Variant) -> None:
        for w in self.workloads(variant):
            self.on(variant, w)

    def workloads(self, variant: Variant) -> list[Workload]:
        """What is asked and the variant can run here.

        Raises:
            SkipTest: nothing, with the reasons.
        """
        asked = list(dict.fromkeys(self.asked(variant)))
        if not asked:
            raise SkipTest(f"{variant.name}: declares no {self.name}")
        return runnable(variant, asked) if self.runs else asked

    @property
    def __name__(self) -> str:
        return f"check_{self.name}"


def check(
    *asked: Workload,
    of: Callable[[Variant], Sequence[Workload]] | None = None,
    shrinks: bool = True,
    runs: bool = True,
) -> Callable[[Claim], Check]:
    """Make a `Check` of a function; the first paragraph of its docstring is the claim.

    Args:
        of: gives the workloads where they depend on the variant.
    """

    def made(on: Claim) -> Check:
        claim = (on.__doc__ or "").strip().split("\n\n")[0]
        name = on.__name__.removeprefix("check_")
        return Check(name, claim, on, of or (lambda variant: asked), shrinks, runs)

    return made


@dataclass(frozen=True)
class Margin:
    """What a check found, and the most it allows."""

    found: float
    allowed: float
    of: str = "error"  # error (relative Frobenius norm) | exponent | bytes

    @property
    def share(self) -> float:
        """Of what is allowed; above 1 (or NaN) it is too much."""
        return self.found / self.allowed


_MARGINS: ContextVar[list[Margin] | None] = ContextVar("margins", default=None)


@contextmanager
def margins() -> Iterator[list[Margin]]:
    """Collect what the checks inside compare."""
    kept: list[Margin] = []
    token = _MARGINS.set(kept)
    try:
        yield kept
    finally:
        _MARGINS.reset(token)


def hold(found: float, allowed: float, told: str, of: str = "error") -> None:
    """Fail with `told` where more is found than allowed, or no number."""
    kept = _MARGINS.get()
    if kept is not None:
        kept.append(Margin(found, allowed, of))
    assert found <= allowed, told


def draw(variant: Variant, w: Workload, seed: int = 0) -> tuple[Inputs, Extra]:
    """Standard normal q, k, v and the variant's extra inputs, in the workload's dtype."""
    generator = torch.Generator().manual_seed(seed)

    def place(x: Tensor) -> Tensor:
        return x.to(w.torch_dtype).to(w.device)

    def uniform(spec: TensorSpec) -> Tensor:
        return spec.low + (spec.high - spec.low) * torch.rand(spec.shape, generator=generator)

    shapes = (w.query_shape, w.key_shape, w.key_shape)
    q, k, v = (place(torch.randn(shape, generator=generator)) for shape in shapes)
    return (q, k, v), {n: place(uniform(s)) for n, s in variant.extra_inputs(w).items()}


def runnable(variant: Variant, workloads: Iterable[Workload]) -> list[Workload]:
    """Those of the workloads that the variant can run here.

    Raises:
        SkipTest: none of them, with the reasons.
    """
    reasons: dict[str, None] = dict.fromkeys(missing_requirements(variant))
    able = []
    for w in workloads:
        unmet = answer.unmet(variant, w)
        if w.device == "cuda" and not torch.cuda.is_available():
            unmet = [*unmet, "device=cuda (no CUDA device here)"]
        reasons.update(dict.fromkeys(unmet))
        if not unmet and not missing_requirements(variant):
            able.append(w)
    if not able:
        raise SkipTest(f"{variant.name}: " + "; ".join(reasons))
    return able


def both(**changes: Any) -> list[Workload]:
    """The base workload with changes, once not causal and once causal."""
    return [replace(BASE, causal=causal, **changes) for causal in (False, True)]


@check(BASE, shrinks=False, runs=False)
def check_declares_itself(variant: Variant, w: Workload) -> None:
    """Name, family, source and parameters are usable as identity."""
    cls = type(variant)
    for field in ("name", "family", "computes", "source"):
        assert isinstance(getattr(cls, field, None), str), f"{cls.__name__} has no {field}"
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", variant.name), f"name {variant.name!r}"
    assert variant.name.startswith(f"{variant.family}_"), f"{variant.name} is not <family>_<what>"
    assert variant.computes in get_args(Computes), f"computes={variant.computes!r}"
    assert variant.source.strip(), "source is empty"
    assert hash(variant) == hash(replace(variant)), "equal variants have different hashes"
    json.dumps(asdict(variant), allow_nan=False)


@check(*both())
def check_shape_and_dtype(variant: Variant, w: Workload) -> None:
    """The output has the shape and dtype of the queries and is finite."""
    inputs, extra = draw(variant, w)
    output = variant.prepare(w)(*inputs, **extra)
    assert output.shape == w.query_shape, f"shape {tuple(output.shape)}, not {w.query_shape}: {w}"
    assert output.dtype == w.torch_dtype, f"dtype {output.dtype}, not {w.dtype}: {w}"
    assert output.isfinite().all(), f"not finite: {w}"


@check(*both())
def check_equals_its_oracle(variant: Variant, w: Workload) -> None:
    """The output is as near to its definition in float64 as plain arithmetic is, twice over."""
    assert_gate(variant, w)


@check(*both(phase="forward_backward"))
def check_gradient_equals_its_oracle(variant: Variant, w: Workload) -> None:
    """The gradients of all inputs are those of the definition."""
    assert_gate(variant, w)


@check(*both())
def check_large_scores_stay_finite(variant: Variant, w: Workload) -> None:
    """Queries and keys 8 times larger: scores near 250 overflow exp() in float32 without a maximum."""
    assert_gate(variant, w, query_scale=8.0, key_scale=8.0)


@check(replace(BASE, causal=True))
def check_causal_ignores_the_future(variant: Variant, w: Workload) -> None:
    """The future resampled, scaled by 3 and cut off; a shared maximum leaks only when scaled."""
    inputs, extra = draw(variant, w)
    other, other_extra = draw(variant, w, seed=1)
    attend = variant.prepare(w)
    before = attend(*inputs, **extra).clone()
    allowed = _allowed(variant, w, inputs, extra)
    for cut in sorted({1, w.seq_len // 2, w.seq_len - 1} - {0, w.seq_len}):
        futures = {
            "resampled": (other, other_extra),
            "scaled by 3": (tuple(3 * x for x in inputs), extra),
        }
        for what, (future, future_extra) in futures.items():
            spliced = [_splice(x, y, cut) for x, y in zip(inputs, future, strict=True)]
            shared = answer.learned(variant, w)
            more = {n: x if n in shared else _splice(x, future_extra[n], cut) for n, x in extra.items()}
            after = attend(*spliced, **more)
            error = relative_error(after[:, :, :cut], before[:, :, :cut])
            told = f"future {what} from {cut} on changes the past by {error:.1e}"
            hold(error, allowed, f"{told} (tolerance {allowed:.1e}): {w}")
        _check_truncated(variant, w, inputs, extra, before, cut, allowed)


@check(*both())
def check_batch_mates_are_ignored(variant: Variant, w: Workload) -> None:
    """Another batch element replaced, scaled by 10, and NaN: this one is as before."""
    inputs, extra = draw(variant, w)
    other, other_extra = draw(variant, w, seed=1)
    attend = variant.prepare(w)
    before = attend(*inputs, **extra).clone()
    allowed = _allowed(variant, w, inputs, extra)
    shared = answer.learned(variant, w)
    more = {n: x if n in shared else torch.cat([x[:1], other_extra[n][1:]]) for n, x in extra.items()}
    mates = {
        "replaced": other,
        "scaled by 10": tuple(10 * x for x in inputs),
        "NaN": tuple(torch.full_like(x, torch.nan) for x in inputs),
    }
    for what, mate in mates.items():
        mixed = [torch.cat([x[:1], y[1:]]) for x, y in zip(inputs, mate, strict=True)]
        after = attend(*mixed, **more)
        error = relative_error(after[:1], before[:1])
        told = f"a batch-mate {what} changes this element by {error:.1e}"
        hold(error, allowed, f"{told} (tolerance {allowed:.1e}): {w}")


@check(*(w for length in LENGTHS for w in both(seq_len=length)))
def check_lengths(variant: Variant, w: Workload) -> None:
    """The output is that of the definition at 1, 63, 257 and 1000 positions."""
    assert_gate(variant, w)


@check(*(w for n in LENGTHS[:-1] for w in both(seq_len=n, phase="forward_backward")))
def check_gradient_at_lengths(variant: Variant, w: Workload) -> None:
    """The gradients are those of the definition at 1, 63 and 257 positions."""
    assert_gate(variant, w)


@check(*(w for n in (1, 2) for p in DERIVED for w in both(kv_heads=n, phase=p)))
def check_grouped_heads(variant: Variant, w: Workload) -> None:
    """Fewer key and value heads than query heads: output and gradients of the definition."""
    assert_gate(variant, w)


@check(*(w for p in DERIVED for w in (*both(kv_len=101, phase=p), replace(BASE, kv_len=29, phase=p))))
def check_cross_lengths(variant: Variant, w: Workload) -> None:
    """More keys than queries, and where not causal fewer: output and gradients of the definition."""
    assert_gate(variant, w)


@check(
    *(w for d in ("float64", "bfloat16", "float16") for p in DERIVED for w in both(dtype=d, phase=p))
)
def check_dtypes(variant: Variant, w: Workload) -> None:
    """float64, bfloat16 and float16 keep the tolerance of their own rounding."""
    assert_gate(variant, w)


@check(of=lambda variant: [limit.workload for limit in variant.limits()], shrinks=False)
def check_limits(variant: Variant, w: Workload) -> None:
    """At each setting it declares, the variant equals another: output and, if asked, gradient."""
    for limit in variant.limits():
        if limit.workload == w:
            _check_limit(limit)


@check(*(replace(BASE, causal=True, phase="decode", kv_heads=n) for n in (None, 2, 1)))
def check_decode(variant: Variant, w: Workload) -> None:
    """A prompt of any length, then steps, equals the whole sequence at once; so does its state.

    From an empty state this is the recurrent form. A step taken twice gives the same bits, and the
    bytes of the state are those that `cost` declares.
    """
    inputs, extra = draw(variant, w)
    rows, shared = _all_rows(w), answer.learned(variant, w)
    expected = answer.definition(variant, w)(
        *(x.double() for x in inputs), rows, **{n: x.double() for n, x in extra.items()}
    )
    allowed = _allowed(variant, w, inputs, extra)
    decoder = variant.decoder(answer.whole(w))
    for prompt in sorted({0, w.seq_len // 2, w.seq_len - 1}):
        outputs: list[Tensor] = []
        state = decoder.start()
        if prompt:
            first = [x[:, :, :prompt] for x in inputs]
            out, state = decoder.prefill(*first, **answer.cut(extra, shared, slice(0, prompt)))
            outputs.append(out)
        for at in range(prompt, w.seq_len):
            here = slice(at, at + 1)
            token = [x[:, :, here] for x in inputs]
            more = answer.cut(extra, shared, here)
            out, after = decoder.step(state, *token, **more)
            out, again = out.clone(), decoder.step(state, *token, **more)[0]
            assert torch.equal(out, again), f"position {at} decoded twice, two answers: {w}"
            outputs.append(out)
            state = after
        error = relative_error(torch.cat(outputs, dim=2), expected)
        told = f"a prompt of {prompt} and {w.seq_len - prompt} steps are {error:.1e} from the whole"
        hold(error, allowed, f"{told} (tolerance {allowed:.1e}): {w}")
    held, declared = answer.state_bytes(state), answer.cost(variant, w).state_bytes
    assert held == declared, f"cost.state_bytes says {declared}, the state holds {held}: {w}"


@check(*both(lengths=(BASE.seq_len - 6, 29)))
def check_ragged(variant: Variant, w: Workload) -> None:
    """Sequences of different lengths: each as if alone, whatever the padding holds."""
    assert_gate(variant, w)
    inputs, extra = draw(variant, w)
    attend = answer.attention(variant, w)
    before = attend(*inputs, **extra)
    filled = [x.clone() for x in inputs]
    for b, n in enumerate(w.lengths or ()):
        assert not before[b, :, n:].any(), f"rows of padding are not zero: {w}"
        for x in filled:
            x[b, :, n:] = torch.nan
    assert torch.equal(attend(*filled, **extra), before), f"the padding changes a valid row: {w}"


@check(*both())
def check_same_seed_same_bits(variant: Variant, w: Workload) -> None:
    """Prepared twice, the same inputs give the same bits."""
    inputs, extra = draw(variant, w)
    first = variant.prepare(w)(*inputs, **extra).clone()
    second = variant.prepare(w)(*inputs, **extra)
    assert torch.equal(first, second), f"prepared twice, two answers: {w}"


@check(*both())
def check_second_call_same_bits(variant: Variant, w: Workload) -> None:
    """State kept between calls (a buffer, a cache) shows when other inputs come between."""
    (inputs, extra), (other, other_extra) = draw(variant, w), draw(variant, w, seed=1)
    attend = variant.prepare(w)
    first = attend(*inputs, **extra)
    kept = first.clone()
    attend(*other, **other_extra)
    assert torch.equal(first, kept), f"a later call overwrote an earlier result: {w}"
    assert torch.equal(attend(*inputs, **extra), kept), f"the second call differs: {w}"


@check(*both(phase="forward_backward"), *both())
def check_inputs_are_not_modified(variant: Variant, w: Workload) -> None:
    """Inputs hold the same bits after the call, and after its backward pass."""
    inputs, extra = draw(variant, w)
    copies = [x.clone() for x in (*inputs, *extra.values())]
    evaluate(variant.prepare(w), inputs, extra, draw_weight(w, _all_rows(w)))
    for i, (x, copy) in enumerate(zip((*inputs, *extra.values()), copies, strict=True)):
        assert torch.equal(x, copy), f"input {i} was modified: {w}"


@check(*both(phase="forward_backward"), *both())
def check_scratch_memory_is_written_first(variant: Variant, w: Workload) -> None:
    """Fresh memory holds NaN: whatever is read before it was written shows."""
    inputs, extra = draw(variant, w)
    with poisoned_memory():
        attend = variant.prepare(w)
        results = evaluate(attend, inputs, extra, draw_weight(w, _all_rows(w)))
    for name, result in results.items():
        assert result.isfinite().all(), f"{name} reads memory that was never written: {w}"


@check(*both(), *both(kv_len=101), *both(kv_heads=2), *both(phase="forward_backward"))
def check_cost(variant: Variant, w: Workload) -> None:
    """Counts are positive; `visible_pairs` is the sum of the mask."""
    cost = variant.cost(w)
    for field in ("flops", "bytes", "workspace_bytes"):
        value = getattr(cost, field)
        assert isinstance(value, int), f"cost.{field} is {type(value).__name__}, not int"
        assert value > 0 or field == "workspace_bytes", f"cost.{field} = {value}"
    assert 0 < cost.exponent <= 3, f"cost.exponent = {cost.exponent}"
    assert cost.workspace_bytes == variant.workspace_bytes(w), "two figures of workspace"
    if variant.computes not in ("exact", "restricted"):
        return
    mask = variant.mask(w, _all_rows(w))
    shape = (w.heads, w.seq_len, w.key_len)
    seen = w.heads * w.seq_len * w.key_len
    if mask is not None:
        assert mask.dtype == torch.bool, f"mask is {mask.dtype}"
        seen = int(mask.expand(shape).sum())
    told = w.heads * variant.visible_pairs(w)
    assert seen == told, f"visible_pairs says {told} for all heads, the mask {seen}: {w}"


@check(
    *(w for p in DERIVED for w in both(batch=1, seq_len=1024, head_dim=32, phase=p)),
    shrinks=False,
)
def check_workspace(variant: Variant, w: Workload) -> None:
    """The predicted workspace is within 3x of what the allocator saw, 1 MiB aside (CPU).

    What `prepare` keeps (masks, draws) may be counted or not.
    """
    slack = 2**20
    call = _Call(variant, w)
    prepared, _ = allocator_peak(call.prepare)
    call.run()  # what only a first call allocates
    call.results = []  # freed here, not inside the peak
    (peak, _), predicted = allocator_peak(call.run), variant.workspace_bytes(w)
    measured = peak - sum(x.nbytes for x in call.results)
    told = f"workspace_bytes says {predicted}, the allocator {measured} (prepare {prepared}): {w}"
    hold(measured, 3 * predicted + slack, told, of="bytes")
    hold(predicted, 3 * (measured + prepared) + slack, told, of="bytes")


@check(*(Workload(1, 1, 4096, 16, causal) for causal in (False, True)), shrinks=False)
def check_growth(variant: Variant, w: Workload) -> None:
    """Work grows no faster than `cost.exponent` says: operations counted at two lengths, not timed."""
    if variant.compiled:
        raise SkipTest(f"{variant.name}: compiled, so its operations are not seen")
    short, work = replace(w, seq_len=w.seq_len // 4), []
    runnable(variant, [short])
    for each in (short, w):
        call = _Call(variant, each)
        call.prepare()
        with WorkCounter() as counter:
            call.run()
        work.append(counter.work)
    found = math.log(work[1] / work[0]) / math.log(w.seq_len / short.seq_len)
    declared = variant.cost(w).exponent
    told = f"cost.exponent says {declared}, the operations grow like n^{found:.2f}"
    told = f"{told} from {short.seq_len} to {w.seq_len}: {w}"
    hold(found, declared + 0.25, told, of="exponent")


CHECKS: tuple[Check, ...] = (
    check_declares_itself,
    check_shape_and_dtype,
    check_equals_its_oracle,
    check_gradient_equals_its_oracle,
    check_large_scores_stay_finite,
    check_causal_ignores_the_future,
    check_batch_mates_are_ignored,
    check_lengths,
    check_gradient_at_lengths,
    check_grouped_heads,
    check_cross_lengths,
    check_dtypes,
    check_limits,
    check_decode,
    check_ragged,
    check_same_seed_same_bits,
    check_second_call_same_bits,
    check_inputs_are_not_modified,
    check_scratch_memory_is_written_first,
    check_cost,
    check_workspace,
    check_growth,
)


def conformance(*variants: Variant, checks: tuple[Check, ...] = CHECKS) -> Callable[..., None]:
    """A pytest test, parametrised over variants and checks; bind it to a name that starts with test."""
    import pytest

    @pytest.mark.parametrize("check", checks, ids=lambda c: c.name)
    @pytest.mark.parametrize("variant", variants, ids=lambda v: v.name)
    def test_conformance(variant: Variant, check: Check) -> None:
        check(variant)

    return test_conformance


def assert_gate(
    variant: Variant, w: Workload, query_scale: float = 1.0, key_scale: float = 1.0
) -> None:
    """The variant is as near to its oracle as plain arithmetic in the same dtype is, twice over."""
    (q, k, v), extra = draw(variant, w)
    inputs = (q * query_scale, k * key_scale, v)
    found = gate(variant, w, *inputs, _all_rows(w), extra)
    error = math.nan if found.oracle_error is None else found.oracle_error
    told = ""
    if not found.passed:
        size = "not finite" if math.isnan(error) else f"{error:.1e} from its oracle"
        where = _where(variant, w, inputs, extra, found.tolerance)
        told = f"{size} (tolerance {found.tolerance:.1e}){where}: {variant} at {w}"
    hold(error, found.tolerance, told)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN (and the largest integer)."""
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic = torch.utils.deterministic
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(before, warn_only=warn)


class _Call:
    """One prepared call with inputs of its own; `results` are the output and the gradients."""

    def __init__(self, variant: Variant, w: Workload) -> None:
        self.variant, self.w = variant, w
        inputs, self.extra = draw(variant, w)
        self.weight = draw_weight(w, _all_rows(w))
        derives = self.weight is not None
        self.leaves = [x.requires_grad_(derives) for x in (*inputs, *self.extra.values())]
        self.inputs = inputs
        self.results: list[Tensor] = []

    def prepare(self) -> None:
        self.attend = self.variant.prepare(self.w)

    def run(self) -> None:
        output = self.attend(*self.inputs, **self.extra)
        self.results = [output.detach()]
        if self.weight is not None:
            found = torch.autograd.grad(output, self.leaves, self.weight, allow_unused=True)
            self.results += [g for g in found if g is not None]


def _check_limit(limit: Limit) -> None:
    w = limit.workload
    for each in (limit.variant, limit.equals):
        assert not each.unmet(w), f"limit asks {each} what it cannot run: {each.unmet(w)}"
    (q, k, v), extra, extra2 = _limit_inputs(limit)
    rows, weight = _all_rows(w), draw_weight(w, _all_rows(w))
    actual = evaluate(limit.variant.prepare(w), (q, k, v), extra, weight)
    expected = evaluate(limit.equals.prepare(w), (q, k, v), extra2, weight)
    mine = plain_error(limit.variant, w, q, k, v, rows, extra)
    theirs = plain_error(limit.equals, w, q, k, v, rows, extra2)
    for name in ("output",) if extra or extra2 else tuple(actual):
        allowed = limit.tolerance
        if allowed is None:  # each may be off by its own tolerance
            allowed = sum(
                tolerance(w.torch_dtype, each[name], name, w.key_len) for each in (mine, theirs)
            )
        error = relative_error(actual[name], expected[name])
        told = f"{name} of {limit.variant} is {error:.1e} from {limit.equals}"
        hold(error, allowed, f"{told} (tolerance {allowed:.1e}): {w}")


def _limit_inputs(limit: Limit) -> tuple[Inputs, Extra, Extra]:
    """Inputs of a limit, and the extra inputs of both variants; those of the same name are one."""
    w = limit.workload
    (q, k, v), extra = draw(limit.variant, w)
    if limit.orthonormal_keys:
        k = torch.linalg.qr(k.transpose(-2, -1).double()).Q.transpose(-2, -1).to(k.dtype)
    _, other = draw(limit.equals, w)

    def fix(own: Extra, named: Extra) -> Extra:
        chosen = {n: named.get(n, x) for n, x in own.items()}
        for n, value in limit.fixed.items():
            if n in own:
                filled = torch.as_tensor(value, dtype=own[n].dtype, device=own[n].device)
                chosen[n] = filled.expand_as(own[n]).clone()
        return chosen

    return (q, k * limit.key_scale, v), fix(extra, {}), fix(other, extra)


def _where(variant: Variant, w: Workload, inputs: Inputs, extra: Extra, allowed: float) -> str:
    """Which query rows, or which gradients, are off; what a person looks at first."""
    expected = evaluate_oracle(variant, w, inputs, _all_rows(w), extra, torch.float64)
    actual = evaluate(answer.attention(variant, w), inputs, extra, draw_weight(w, _all_rows(w)))
    off = relative_error(actual["output"], expected["output"])
    if off <= allowed:
        return _which_gradients(w, inputs, extra, actual, expected)
    difference = (actual["output"].double() - expected["output"]).movedim(2, 0)
    size = expected["output"].movedim(2, 0).flatten(1).norm(dim=1)
    error = difference.flatten(1).norm(dim=1) / size.clamp(min=1e-30)
    rows = (~(error <= allowed)).nonzero().flatten().tolist()  # NaN is off, too
    if not rows:
        return ""
    return (
        f"; {len(rows)} of {w.seq_len} query rows are off, first row {rows[0]}: query {rows[0]} gives "
        f"something else than its definition, error {float(error[rows[0]]):.1e}"
    )


def _which_gradients(
    w: Workload, inputs: Inputs, extra: Extra, actual: Results, expected: Results
) -> str:
    sizes = [x.numel() for x in (*inputs, *extra.values())]
    parts = zip(
        ("q", "k", "v", *extra),
        torch.split(actual["gradient"], sizes),
        torch.split(expected["gradient"], sizes),
        strict=True,
    )
    errors = ", ".join(f"{name} {relative_error(a, e):.1e}" for name, a, e in parts)
    return f"; the output is right, the gradients are off: {errors}"


def _all_rows(w: Workload) -> Tensor:
    return torch.arange(w.seq_len, device=w.device)


def _allowed(variant: Variant, w: Workload, inputs: Inputs, extra: Extra) -> float:
    """How far two answers to the same question may be apart."""
    plain = plain_error(variant, w, *inputs, _all_rows(w), extra)
    return tolerance(w.torch_dtype, plain["output"], terms=w.key_len)


def _splice(x: Tensor, y: Tensor, cut: int) -> Tensor:
    """x before position `cut` of dimension 2, y from there on."""
    return torch.cat([x[:, :, :cut], y[:, :, cut:]], dim=2)


def _check_truncated(
    variant: Variant,
    w: Workload,
    inputs: Inputs,
    extra: Extra,
    before: Tensor,
    cut: int,
    allowed: float,
) -> None:
    """The past alone gives the past, where the definition itself does not look at the length."""
    short = replace(w, seq_len=cut)
    shared = answer.learned(variant, w)
    specs = variant.extra_inputs(short)
    if variant.unmet(short) or any(extra[n].shape != specs[n].shape for n in shared):
        return
    past = [x[:, :, :cut].contiguous() for x in inputs]
    more = answer.cut(extra, shared, slice(0, cut))
    rows = _all_rows(short)

    def defined(w: Workload, tensors: Iterable[Tensor], more: Extra) -> Tensor:
        doubles = {n: x.double() for n, x in more.items()}
        return variant.oracle(w)(*(x.double() for x in tensors), rows, **doubles)

    if relative_error(defined(short, past, more), defined(w, inputs, extra)) > allowed:
        return
    error = relative_error(variant.prepare(short)(*past, **more), before[:, :, :cut])
    hold(error, 2 * allowed, f"without the future from {cut} on, the past changes by {error:.1e}: {w}")
