"""A certificate: what was held against a variant, how near it came, and the smallest failing case."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from typing import Any
from unittest import SkipTest

import torch
from rich.console import Console
from rich.text import Text

from subquad import units
from subquad.answer import unmet
from subquad.conformance import CHECKS, Check, Margin, margins
from subquad.contract import Variant, Workload
from subquad.discover import missing_requirements

PASSED, FAILED, SKIPPED, UNTESTED = "passed", "failed", "skipped", "not tested here"
SHRINK_S = 10.0  # after that the smallest case so far is told
STYLES = {PASSED: "green", FAILED: "red bold", SKIPPED: "dim", UNTESTED: "yellow"}


@dataclass(frozen=True)
class Worst:
    """The comparison that came nearest to its tolerance (or went beyond it), and where."""

    margin: Margin
    workload: Workload


@dataclass(frozen=True)
class Failure:
    """The smallest workload found at which the same check still fails, and what it says there."""

    workload: Workload
    asked: Workload  # what failed first
    message: str
    margin: Margin | None
    tried: int  # smaller workloads that were tried
    reproduce: str


@dataclass(frozen=True)
class Outcome:
    """What one check came to; `refused` says why workloads of it were left out, each reason once."""

    check: str
    claim: str
    status: str
    workloads: int
    worst: Worst | None = None
    refused: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Certificate:
    """Every check of one variant, and what the variant says of itself."""

    variant: Variant
    outcomes: tuple[Outcome, ...]

    @property
    def verdict(self) -> str:
        """`failed` if any check did; `not tested here` where none could run the variant."""
        statuses = Counter(o.status for o in self.outcomes)
        if statuses[FAILED]:
            return FAILED
        ran = any(o.status == PASSED and o.check != "declares_itself" for o in self.outcomes)
        return PASSED if ran else UNTESTED

    def describe(self) -> dict[str, Any]:
        """The certificate as plain data; a number that is not finite is None."""
        v = self.variant
        about = {n: getattr(v, n, None) for n in ("name", "family", "computes", "source")}
        checks = [_plain(asdict(o)) for o in self.outcomes]
        return {**about, "params": asdict(v), "verdict": self.verdict, "checks": checks}


def certify(
    variant: Variant,
    checks: Sequence[Check] = CHECKS,
    doing: Callable[[str], None] = lambda what: None,
) -> Certificate:
    """Hold every check against the variant; `doing` is told each before it begins."""
    outcomes = []
    for number, check in enumerate(checks, start=1):
        doing(f"{variant.name}: {number}/{len(checks)} {check.name}")
        with _profiler_silenced():
            outcomes.append(_held(variant, check))
    return Certificate(variant, tuple(outcomes))


def _held(variant: Variant, check: Check) -> Outcome:
    def outcome(status: str, done: int, **more: Any) -> Outcome:
        return Outcome(check.name, check.claim, status, done, **more)

    refused = _refused(variant, check)
    try:
        workloads = check.workloads(variant)
    except SkipTest as skip:
        reason = str(skip).removeprefix(f"{variant.name}: ")
        return outcome(SKIPPED, 0, refused=refused or (reason,))
    worst: Worst | None = None
    done = 0
    for w in workloads:
        tried = _try(variant, check, w)
        if tried.left_out:
            refused = (*refused, tried.left_out)
            continue
        done += 1
        for margin in tried.compared:
            if worst is None or not margin.share <= worst.margin.share:
                worst = Worst(margin, w)
        if tried.message:
            failure = _smallest(variant, check, w, tried)
            return outcome(FAILED, done, worst=worst, refused=refused, failure=failure)
    refused = tuple(dict.fromkeys(refused))
    return outcome(PASSED if done else SKIPPED, done, worst=worst, refused=refused)


def _refused(variant: Variant, check: Check) -> tuple[str, ...]:
    """Why not every workload of the check can be asked, each reason once."""
    if not check.runs:
        return ()
    reasons = [r for w in check.asked(variant) for r in unmet(variant, w)]
    return tuple(dict.fromkeys([*missing_requirements(variant), *reasons]))


@dataclass(frozen=True)
class _Tried:
    """What a check said against a variant ("" if nothing), and what it compared."""

    message: str
    crashed: bool  # an exception of the variant stopped it: not the check said no
    compared: tuple[Margin, ...]
    left_out: str = ""  # why it said nothing


def _try(variant: Variant, check: Check, w: Workload) -> _Tried:
    message, crashed, left_out = "", False, ""
    with margins() as compared:
        try:
            check.on(variant, w)
        except SkipTest as skip:
            left_out = str(skip).removeprefix(f"{variant.name}: ")
        except AssertionError as error:
            message = _first_line(error) or "an assertion failed"
        except Exception as error:  # noqa: BLE001 - a variant may fail in any way; the text is kept
            message, crashed = f"{type(error).__name__}: {_first_line(error)}", True
    for where in (f": {variant} at {w}", f": {w}"):
        message = message.removesuffix(where)
    return _Tried(message, crashed, tuple(compared), left_out)


def _smallest(variant: Variant, check: Check, asked: Workload, first: _Tried) -> Failure:
    """Make the workload smaller, one dimension after the other, as long as the same check fails.

    A step that fails otherwise (an exception instead of a wrong number) is not taken.
    """
    w, told, tried, deadline = asked, first, 0, time.monotonic() + SHRINK_S
    shrinking = check.shrinks
    while shrinking and time.monotonic() < deadline:
        shrinking = False
        for smaller in _smaller(w):
            if unmet(variant, smaller):
                continue
            tried += 1
            found = _try(variant, check, smaller)
            if found.message and found.crashed == first.crashed:
                w, told, shrinking = smaller, found, True
                break
            if time.monotonic() > deadline:
                break
    cls = type(variant)
    lines = (
        f"from {cls.__module__} import {cls.__qualname__}",
        f"from subquad.conformance import check_{check.name}",
        "from subquad.contract import Workload",
        f"check_{check.name}.on({variant}, {w_repr(w)})",
    )
    beyond = next((m for m in told.compared if not m.found <= m.allowed), None)
    return Failure(w, asked, told.message, beyond, tried, "\n".join(lines))


def _smaller(w: Workload) -> Iterator[Workload]:
    """Workloads that are smaller in one dimension, the boldest step first."""
    for name in ("batch", "seq_len", "kv_len", "heads", "kv_heads", "head_dim"):
        size = getattr(w, name)
        if size is None:
            continue
        for value in dict.fromkeys((1, size // 2, size - 1)):
            if 1 <= value < size:
                yield from _resized(w, name, value)
    if w.lengths is not None:
        longest = max(w.lengths)
        for n in dict.fromkeys((1, longest // 2, longest - 1)):
            if n >= 1:
                yield from _with(w, lengths=tuple(min(n, x) for x in w.lengths))


def _resized(w: Workload, name: str, value: int) -> Iterator[Workload]:
    if name == "batch" and w.lengths is not None:
        for lengths in dict.fromkeys((w.lengths[:value], w.lengths[-value:])):
            yield from _with(w, batch=value, lengths=lengths)
    elif name == "seq_len" and w.lengths is not None:
        yield from _with(w, seq_len=value, lengths=tuple(min(n, value) for n in w.lengths))
    elif name == "heads" and w.kv_heads is not None:
        yield from _with(w, heads=2 * w.kv_heads if value == 1 else value)  # still grouped
    else:
        yield from _with(w, **{name: value})


def _with(w: Workload, **changes: Any) -> Iterator[Workload]:
    """The workload with changes, if it is one and of the same kind (grouped, cross, ragged)."""
    try:
        changed = replace(w, **changes)
    except ValueError:  # heads no multiple of kv_heads, or causal with fewer keys than queries
        return
    kinds = ("kv_heads", "kv_len", "lengths")
    same = all((getattr(w, kind) is None) == (getattr(changed, kind) is None) for kind in kinds)
    if same and changed != w:
        yield changed


def w_repr(w: Workload) -> str:
    """A workload as the expression that makes it, without what is as usual."""
    shown = [f"{w.batch}, {w.heads}, {w.seq_len}, {w.head_dim}, causal={w.causal}"]
    for f in fields(w)[5:]:
        value = getattr(w, f.name)
        if value != f.default:
            shown.append(f"{f.name}={value!r}")
    return f"Workload({', '.join(shown)})"


def show(certificate: Certificate, console: Console) -> None:
    """The certificate for a person."""
    v, verdict = certificate.variant, certificate.verdict

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    counts = Counter(o.status for o in certificate.outcomes)
    told = ", ".join(f"{counts[s]} {s}" for s in (PASSED, FAILED, SKIPPED) if counts[s])
    workloads = sum(o.workloads for o in certificate.outcomes)
    say(f"{v}: {verdict}", STYLES[verdict])
    say(f"  {getattr(v, 'computes', '?')}; {getattr(v, 'source', '?')}")
    say(f"  checks: {told}, on {workloads} workloads; {environment()}")
    say("  errors: relative, in the Frobenius norm, the worst; at: batch x heads x seq_len x head_dim")
    say("")
    for o in certificate.outcomes:
        line = Text(f"  {o.status:7}  ", STYLES[o.status]).append(f"{o.check:33}", "bold")
        console.print(line.append(_summary(o), "default"), soft_wrap=True)
        say(f"           {o.claim}", "dim")
        if o.refused:
            more = f" (and {len(o.refused) - 3} reasons more)" if len(o.refused) > 3 else ""
            say(f"           left out: {'; '.join(o.refused[:3])}{more}")
        if o.failure is not None:
            _show_failure(o.failure, say)
    say("")


def _show_failure(f: Failure, say: Callable[..., None]) -> None:
    say(f"           smallest failing case: {w_repr(f.workload)}", "red")
    say(f"           {f.message}")
    if f.tried:
        say(f"           from {w_repr(f.asked)}, {f.tried} smaller ones tried; reproduce:")
    else:
        say("           reproduce:")
    for line in f.reproduce.splitlines():
        say(f"             {line}")


def _summary(o: Outcome) -> str:
    if not o.workloads:
        return ""
    told = f"{o.workloads} workload{'s' if o.workloads > 1 else ''}"
    if o.worst is None:
        return told
    return f"{told}, {_told(o.worst.margin)} at {_short(o.worst.workload)}"


def _short(w: Workload) -> str:
    """A workload in a few words: 2x4x67x16 causal kv_heads=2."""
    words = [f"{w.batch}x{w.heads}x{w.seq_len}x{w.head_dim}", *(["causal"] if w.causal else [])]
    changed = (f for f in fields(w)[5:] if getattr(w, f.name) != f.default)
    return " ".join([*words, *(f"{f.name}={getattr(w, f.name)}" for f in changed)])


def _told(m: Margin) -> str:
    if m.of == "exponent":
        return f"n^{m.found:.2f}, at most n^{m.allowed:.2f}"
    if m.of == "bytes":
        return f"{units.size(int(m.found))}, at most {units.size(int(m.allowed))}"
    found = "not finite" if not math.isfinite(m.found) else f"{m.found:.1e}"
    return f"error {found}, tolerance {m.allowed:.1e}"


def environment() -> str:
    """What the checks ran on, in a few words."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"subquad {metadata.version('subquad')}, torch {torch.__version__}, Python {python}, cpu"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "").strip()


def _plain(value: Any) -> Any:
    """Without numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def _profiler_silenced() -> Iterator[None]:
    """Keep off the terminal the lines that torch's profiler writes to stderr; the rest comes after."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            log.seek(0)
            for line in log:
                if not line.startswith(b"USDT:"):
                    os.write(2, line)
