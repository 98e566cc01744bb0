"""From what a variant answers, whole sequences, to what a workload asks: ragged batches, decoding.

Everyone who runs a variant (probes, oracle, conformance) asks here. A workload without `lengths` and
with another phase than `decode` goes straight to the variant.

A ragged batch is answered sequence by sequence, each without its padding: nothing is spent on it, and
it cannot change a valid row. Decoding is held against the causal definition of the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from subquad.contract import AttentionFn, Cost, OracleFn, TensorSpec, Variant, Workload

Extra = Mapping[str, Tensor]


def attention(variant: Variant, w: Workload) -> AttentionFn:
    """What answers the workload: q [B, H, L, D], k and v [B, Hk, Lk, D] to [B, H, L, D].

    Decoding takes all positions but the last as the prompt and the last as a step.
    """
    if w.phase == "decode":
        return _decoded(variant, w)
    if w.lengths is None:
        return variant.prepare(w)
    alone = {n: variant.prepare(sequence(w, n)) for n in sorted(set(w.lengths))}
    return _each_sequence(w, alone, learned(variant, w))


def definition(variant: Variant, w: Workload) -> OracleFn:
    """What the answer must be: like `variant.oracle`, for any workload."""
    return for_rows(variant.oracle, w, learned(variant, w))


def for_rows(
    definition_of: Callable[[Workload], OracleFn], w: Workload, shared: frozenset[str] = frozenset()
) -> OracleFn:
    """A definition of whole sequences, for any workload; its `rows` must be sorted."""
    if w.phase == "decode":
        return definition_of(whole(w))
    if w.lengths is None:
        return definition_of(w)
    lengths = sorted(set(w.lengths))

    def attend(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, **extra: Tensor) -> Tensor:
        alone = {n: _of_rows(definition_of(sequence(w, n)), rows[rows < n]) for n in lengths}
        return _each_sequence(w, alone, shared, len(rows))(q, k, v, **extra)

    return attend


def cost(variant: Variant, w: Workload) -> Cost:
    """What the workload must do: a ragged batch its sequences, a step what one position adds."""
    if w.phase == "decode":
        return _cost_of_step(variant, w)
    if w.lengths is None:
        return variant.cost(w)
    each = [variant.cost(sequence(w, n)) for n in w.lengths]
    states = [c.state_bytes for c in each if c.state_bytes is not None]
    return Cost(
        flops=sum(c.flops for c in each),
        bytes=sum(c.bytes for c in each),
        workspace_bytes=max(c.workspace_bytes for c in each),
        exponent=each[0].exponent,
        state_bytes=sum(states) if states else None,
    )


def unmet(variant: Variant, w: Workload) -> list[str]:
    """Why the variant cannot answer the workload, or one of its sequences; [] means it can."""
    reasons = variant.unmet(w)
    if w.phase == "decode":
        reasons += variant.unmet(whole(w))
    for n in sorted(set(w.lengths or ())):
        reasons += variant.unmet(sequence(w, n))
    return list(dict.fromkeys(reasons))


def step_call(
    variant: Variant, w: Workload, q: Tensor, k: Tensor, v: Tensor, extra: Extra
) -> Callable[[], Tensor]:
    """One step of decoding at the last position, the prompt absorbed here; repeatable."""
    decoder, shared = variant.decoder(whole(w)), learned(variant, w)
    with torch.no_grad():
        state = _absorbed(decoder, w, q, k, v, extra, shared)
    last = [x[:, :, -1:] for x in (q, k, v)]
    more = cut(extra, shared, slice(w.seq_len - 1, w.seq_len))

    def step() -> Tensor:
        with torch.no_grad():
            return decoder.step(state, *last, **more)[0]

    return step


def sequence(w: Workload, length: int) -> Workload:
    """One sequence of a ragged batch, alone."""
    return replace(w, batch=1, seq_len=length, lengths=None)


def whole(w: Workload) -> Workload:
    """The causal sequence that a decoder goes through."""
    return replace(w, phase="forward")


def learned(variant: Variant, w: Workload) -> frozenset[str]:
    """Names of the extra inputs that belong to no position."""
    specs: Mapping[str, TensorSpec] = variant.extra_inputs(w)
    return frozenset(name for name, spec in specs.items() if spec.learned)


def cut(extra: Extra, shared: frozenset[str], positions: slice) -> dict[str, Tensor]:
    """Extra inputs at some positions; parameters stay whole."""
    return {n: x if n in shared else x[:, :, positions] for n, x in extra.items()}


def state_bytes(state: Any) -> int:
    """Bytes of the distinct storages in a decoder's state."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, tuple):
            for item in value:
                visit(item)

    visit(state)
    return sum(storages.values())


def _each_sequence(
    w: Workload, alone: Mapping[int, AttentionFn], shared: frozenset[str], rows: int | None = None
) -> AttentionFn:
    """Every sequence by itself into the first of its rows; the others are zero."""
    lengths = w.lengths or ()

    def attend(q: Tensor, k: Tensor, v: Tensor, **extra: Tensor) -> Tensor:
        out = q.new_zeros(*q.shape[:2], q.shape[2] if rows is None else rows, v.shape[3])
        for b, n in enumerate(lengths):
            one = (x[b : b + 1, :, :n] for x in (q, k, v))
            more = {m: x if m in shared else x[b : b + 1, :, :n] for m, x in extra.items()}
            part = alone[n](*one, **more)
            out[b : b + 1, :, : part.shape[2]] = part
        return out

    return attend


def _of_rows(oracle: OracleFn, rows: Tensor) -> AttentionFn:
    return lambda q, k, v, **extra: oracle(q, k, v, rows, **extra)


def _decoded(variant: Variant, w: Workload) -> AttentionFn:
    decoder, shared = variant.decoder(whole(w)), learned(variant, w)
    prompt, last = slice(0, w.seq_len - 1), slice(w.seq_len - 1, w.seq_len)

    def attend(q: Tensor, k: Tensor, v: Tensor, **extra: Tensor) -> Tensor:
        outputs, state = [], decoder.start()
        if w.seq_len > 1:
            first = (x[:, :, prompt] for x in (q, k, v))
            out, state = decoder.prefill(*first, **cut(extra, shared, prompt))
            outputs.append(out)
        out, _ = decoder.step(state, *(x[:, :, last] for x in (q, k, v)), **cut(extra, shared, last))
        return torch.cat([*outputs, out], dim=2)

    return attend


def _absorbed(
    decoder: Any, w: Workload, q: Tensor, k: Tensor, v: Tensor, extra: Extra, shared: frozenset[str]
) -> Any:
    if w.seq_len == 1:
        return decoder.start()
    prompt = slice(0, w.seq_len - 1)
    first = (x[:, :, prompt] for x in (q, k, v))
    return decoder.prefill(*first, **cut(extra, shared, prompt))[1]


def _cost_of_step(variant: Variant, w: Workload) -> Cost:
    """What the last position adds to the causal sequence; the state is read once."""
    longer = variant.cost(whole(w))
    before = variant.cost(replace(whole(w), seq_len=w.seq_len - 1)).flops if w.seq_len > 1 else 0
    kept = longer.state_bytes or 0
    token = 2 * w.batch * (w.heads + w.key_heads) * w.head_dim * w.element_bytes
    return Cost(
        flops=max(1, longer.flops - before),
        bytes=token + kept,
        workspace_bytes=longer.workspace_bytes,  # of the prompt, which is what limits the size
        exponent=max(0.0, longer.exponent - 1.0),
        state_bytes=longer.state_bytes,
    )
