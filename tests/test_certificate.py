"""A certificate tells what was held, how near it came, and the smallest workload that fails."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from subquad import certificate as c
from subquad import conformance, named
from subquad.config import ConfigError
from subquad.contract import Computes, Supports, Variant, Workload, softmax_attention
from test_cli import subquad

FILE = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from subquad.contract import Variant, softmax_attention

@dataclass(frozen=True)
class {cls}(Variant):
    name: ClassVar[str] = "full_{word}"
    family: ClassVar[str] = "full"
    computes: ClassVar[str] = "exact"
    source: ClassVar[str] = "this test"
    dropped: int = {dropped}

    def prepare(self, w):
        mask = self.mask(w, torch.arange(w.seq_len))
        return lambda q, k, v: softmax_attention(q * (1 + self.dropped), k, v, mask)
"""


@dataclass(frozen=True)
class Window(Variant):
    """Sees `extra` keys more than its definition says."""

    name: ClassVar[str] = "toy_window"
    family: ClassVar[str] = "toy"
    computes: ClassVar[Computes] = "restricted"
    source: ClassVar[str] = "this test"
    supports: ClassVar[Supports] = Supports(causal=(True,), cross=False)
    window: int = 12
    extra: int = 0

    def mask(self, w: Workload, rows: torch.Tensor) -> torch.Tensor:
        distance = rows[:, None] - torch.arange(w.key_len)
        return (distance < self.window) & (distance >= 0)

    def visible_pairs(self, w: Workload) -> int:
        before = min(self.window, w.seq_len)
        return w.seq_len * before - before * (before - 1) // 2

    def prepare(self, w: Workload) -> Any:
        wider = replace(self, window=self.window + self.extra)
        mask = wider.mask(w, torch.arange(w.seq_len))
        return lambda q, k, v: softmax_attention(q, k, v, mask)


def outcome(variant: Variant, check: conformance.Check) -> c.Outcome:
    (found,) = c.certify(variant, [check]).outcomes
    return found


def test_a_sound_variant_passes_with_its_worst_error_and_tolerance() -> None:
    found = outcome(Window(), conformance.check_equals_its_oracle)
    assert (found.status, found.workloads, found.failure) == (c.PASSED, 1, None)
    assert found.worst is not None
    assert 0 < found.worst.margin.found <= found.worst.margin.allowed < 1e-5
    assert (
        found.claim
        == "The output is as near to its definition in float64 as plain arithmetic is, twice over."
    )


def test_the_smallest_failing_case_is_one_key_longer_than_the_window() -> None:
    found = outcome(Window(extra=1), conformance.check_equals_its_oracle)
    assert found.failure is not None
    assert found.failure.workload == Workload(1, 1, 13, 1, causal=True)
    assert "1 of 13 query rows are off, first row 12" in found.failure.message


def test_a_smaller_case_stays_of_its_kind() -> None:
    """Grouped heads stay grouped, and a ragged batch ragged."""
    grouped = outcome(Window(extra=1), conformance.check_grouped_heads).failure
    assert grouped is not None
    assert grouped.workload == Workload(1, 2, 13, 1, causal=True, kv_heads=1)
    ragged = outcome(Window(extra=1), conformance.check_ragged).failure
    assert ragged is not None
    assert ragged.workload.lengths == (13,)
    assert ragged.workload.seq_len == 14


def test_the_reproduction_fails_as_the_check_did() -> None:
    found = outcome(Window(extra=1), conformance.check_equals_its_oracle)
    assert found.failure is not None
    with pytest.raises(AssertionError, match="query rows are off"):
        exec(found.failure.reproduce, {})


def test_what_a_variant_refuses_is_told_and_not_failed() -> None:
    found = outcome(Window(), conformance.check_cross_lengths)
    assert found.status == c.SKIPPED
    assert "kv_len=101 (needs kv_len = seq_len = 67)" in found.refused
    partly = outcome(Window(), conformance.check_equals_its_oracle)
    assert partly.refused == ("causal=false (only causal)",)


def test_an_exception_of_the_variant_is_a_failure_with_its_text() -> None:
    class Crashing(Window):
        def prepare(self, w: Workload) -> Any:
            if w.seq_len > 5:
                raise IndexError("index 6 is out of range")
            return super().prepare(w)

    found = outcome(Crashing(), conformance.check_equals_its_oracle)
    assert found.failure is not None
    assert found.failure.message == "IndexError: index 6 is out of range"
    assert found.failure.workload.seq_len == 6


def test_a_variant_that_nothing_runs_of_has_no_certificate() -> None:
    class Needy(Window):
        requires: ClassVar[tuple[str, ...]] = ("no-such-package>=1",)

    found = c.certify(Needy(), [conformance.check_declares_itself, conformance.check_shape_and_dtype])
    assert found.verdict == c.UNTESTED
    assert "needs no-such-package>=1" in found.outcomes[1].refused[0]


def test_numbers_that_are_not_finite_are_none_in_json() -> None:
    class Infinite(Window):
        def prepare(self, w: Workload) -> Any:
            return lambda q, k, v: q * math.nan

    found = c.certify(Infinite(), [conformance.check_equals_its_oracle]).describe()
    assert found["checks"][0]["worst"]["margin"]["found"] is None
    json.dumps(found, allow_nan=False)


def test_growth_is_held_as_an_exponent() -> None:
    class Linear(Window):
        def cost(self, w: Workload) -> Any:
            return replace(super().cost(w), exponent=1.0)

    found = outcome(Linear(), conformance.check_growth)
    assert found.status == c.FAILED
    assert found.worst is not None
    assert found.worst.margin.of == "exponent"
    assert found.worst.margin.found > 1.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["local_windo"], "unknown variant 'local_windo': did you mean local_window"),
        (["nofile.py"], "nofile.py: no such file"),
        (["no_module:X"], "no_module:X did not load: ModuleNotFoundError"),
        (["subquad.variants.linear_elu:X"], "no class 'X'; variants there: LinearElu"),
        (["local_window", "local_window.windw=3"], "no parameter 'windw': known are window"),
        (["local_window", "local_window.window=x"], "could not be converted to Integer"),
        (["local_window", "local_window.window=0"], "window must be >= 1, got 0"),
        (["local_window", "linear_elu.chunk=3"], "linear_elu, which is not checked here"),
        (["window=3"], "name a variant"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        named.variants(words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_names_modules_and_files_give_variants_with_parameters(tmp_path: Path) -> None:
    path = tmp_path / "one_file.py"
    path.write_text(FILE.format(cls="Mine", word="mine", dropped=0))
    words = ["local_window", "subquad.variants.linear_elu:LinearElu", f"{path}:Mine"]
    found = named.variants([*words, "local_window.window=64"])
    assert [v.name for v in found] == ["local_window", "linear_elu", "full_mine"]
    assert found[0].window == 64  # type: ignore[attr-defined]


def test_a_file_of_the_catalog_keeps_its_one_identity() -> None:
    import subquad.variants
    from subquad.discover import discover

    path = Path(subquad.variants.__path__[0]) / "linear_elu.py"
    assert type(named.variants([str(path)])[0]) is discover()["linear_elu"]


@pytest.mark.slow
def test_the_command_prints_a_certificate_and_tells_by_its_code(tmp_path: Path) -> None:
    for word, dropped in (("sound", 0), ("faulty", 1)):
        source = FILE.format(cls="Mine", word=word, dropped=dropped)
        (tmp_path / f"{word}.py").write_text(source)
    sound = subquad("check", "sound.py", cwd=tmp_path)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert "Mine(dropped=0): passed" in sound.stdout
    faulty = subquad("check", "faulty.py", "--json", cwd=tmp_path)
    assert (faulty.returncode, faulty.stderr) == (1, "")
    (told,) = json.loads(faulty.stdout)["certificates"]
    assert told["verdict"] == "failed"
    checks = {check["check"]: check for check in told["checks"]}
    assert checks["equals_its_oracle"]["failure"]["workload"]["seq_len"] == 2


def test_the_command_refuses_an_unknown_name_in_one_line(tmp_path: Path) -> None:
    done = subquad("check", "local_windo", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("subquad: unknown variant 'local_windo': did you mean local_window")
    assert done.stderr.count("\n") == 1
