"""Every file in configs/ composes, overrides are checked, and a mistake is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

import subquad.configs
from subquad import config
from subquad.config import ConfigError
from subquad.contract import Workload
from subquad.discover import discover
from subquad.settings import Sweep, TimeSettings
from subquad.store import StoreError

CONFIGS = Path(subquad.configs.__file__).parent
SMOKE = "experiment=smoke"


def compose(*overrides: str) -> list[Sweep]:
    """The sweeps that `subquad run` would measure."""
    sweeps: list[Sweep] = []
    config.main(list(overrides), lambda sweep, cfg: sweeps.append(sweep))
    return sweeps


def one(*overrides: str) -> Sweep:
    (sweep,) = compose(*overrides)
    return sweep


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_composes_and_says_its_command(path: Path) -> None:
    assert f"# subquad run experiment={path.stem}" in path.read_text().splitlines()[1]
    sweep = one(f"experiment={path.stem}")
    assert sweep.workloads
    assert sweep.baseline in {v.name for v in sweep.variants}


@pytest.mark.parametrize("path", sorted((CONFIGS / "hardware").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_hardware_composes(path: Path) -> None:
    if path.stem == "cuda":
        pytest.skip("needs a CUDA device; its refusal is tested below")
    sweep = one(f"hardware={path.stem}")
    expected = sweep.hardware.resolved_device if path.stem == "auto" else path.stem
    assert sweep.hardware.name == expected


@pytest.mark.parametrize("experiment", ["catalog", "fidelity", "reference"])
def test_experiments_that_say_so_have_every_variant(experiment: str) -> None:
    assert {v.name for v in one(f"experiment={experiment}").variants} == set(discover().variants)


def test_a_family_stands_for_its_members_and_all_for_everyone() -> None:
    chosen = [v.name for v in one("variant=[full_naive,lowrank,local_window]").variants]
    lowrank = sorted(n for n, v in discover().variants.items() if v.family == "lowrank")
    assert chosen == ["full_naive", *lowrank, "local_window"]
    families = [v.family for v in one("variant=all").variants]
    assert (families[0], families[-1]) == ("full", "control")
    linear = one("variant=linear", "variants.linear_performer.features=16").variants
    assert [v.features for v in linear if v.name == "linear_performer"] == [16]


def test_axes_take_a_value_or_a_list() -> None:
    sweep = one("seq_len=[64,128]", "heads=4", "kv_heads=[null,2]", "causal=[false,true]")
    assert len(sweep.workloads) == 8
    assert Workload(1, 4, 64, 64, True, kv_heads=2) in sweep.workloads


def test_extra_grids_change_only_the_axes_they_name() -> None:
    sweep = one("seq_len=[64,128]", "heads=4", "extra=[{seq_len: 64, heads: [1, 2]}]")
    assert [(w.seq_len, w.heads) for w in sweep.workloads] == [(64, 4), (128, 4), (64, 1), (64, 2)]


def test_parameters_of_variants_inputs_and_probes_are_overridden() -> None:
    sweep = one(
        "variant=[full_naive,local_window]",
        "variants.local_window.window=64",
        "inputs=[captured,gaussian]",
        "inputs.gaussian.scale=2",
        "probe.time.target=0.01",
    )
    assert [getattr(v, "window", None) for v in sweep.variants] == [None, 64]
    assert [f.name for f in sweep.inputs] == ["captured", "gaussian"]
    assert getattr(sweep.inputs[1], "scale", None) == 2.0
    time = sweep.probes["time"]
    assert isinstance(time, TimeSettings)
    assert time.target == 0.01


def test_a_list_gives_one_instance_a_value() -> None:
    sweep = one(
        "variant=[full_naive,linear_performer]",
        "variants.linear_performer.features=[16,64]",
        "inputs=[gaussian]",
        "inputs.gaussian.scale=[0.25,1]",
        "probe=[task]",
        "task=[mqar]",
        "tasks.mqar.pairs=[2,4]",
    )
    assert [getattr(v, "features", None) for v in sweep.variants] == [None, 16, 64]
    assert [f.label for f in sweep.inputs] == ["gaussian(scale=0.25)", "gaussian"]
    assert [getattr(t, "pairs", None) for t in sweep.tasks] == [2, 4]


def test_the_baseline_is_always_there_and_a_time_has_its_kernel_and_its_gate() -> None:
    sweep = one("variant=[linear_elu]", "probe=[time]")
    assert {v.name for v in sweep.variants} == {"full_naive", "linear_elu"}
    assert list(sweep.probes) == ["kernel", "gate", "time"]
    assert list(one().probes) == ["memory", "kernel", "gate", "fidelity", "time"]


def test_multirun_gives_one_sweep_a_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweeps = compose("--multirun", SMOKE, "hardware=cpu,cpu_1thread")
    assert [s.hardware.name for s in sweeps] == ["cpu", "cpu_1thread"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variant=[nope]", "unknown variant 'nope': `subquad variants` lists them all"),
        ("variant=[local_windw]", "unknown variant 'local_windw': did you mean local_window"),
        ("variants.local_window.widow=3", "Key 'widow' is not in struct: known are window"),
        ("variants.local_window.window=0", "window must be >= 1, got 0"),
        ("variants.local_window.window=abc", "'abc' of type 'str' could not be converted to Integer"),
        ("variants.local_window.window=[8,abc]", "could not be converted to Integer"),
        ("variants.local_window.window=[]", "local_window: window is an empty list"),
        ("probe=[task]", "probe=task needs tasks and tasks need it: probe=task task=mqar"),
        ("task=mqar", "probe=task needs tasks and tasks need it: probe=task task=mqar"),
        ("seq_len=0", "seq_len must be >= 1, got 0"),
        ("seq_len=-5", "seq_len must be >= 1, got -5"),
        ("seq_len=many", "seq_len must be of type int, got 'many'"),
        ("seq_len=[]", "seq_len is empty: give one value or a list"),
        ("seq_len=1.5", "seq_len must be of type int, got 1.5"),
        ("causal=1", "causal must be of type bool, got 1"),
        ("seq_len=512,1024", "write a list as seq_len=[512,1024]"),
        ("kv_heads=3", "heads must be a multiple of kv_heads, got heads=2 and kv_heads=3"),
        ("dtype=float8", "dtype must be one of float64, float32, bfloat16, float16, got 'float8'"),
        ("phase=sideways", "phase must be one of forward, forward_backward, decode"),
        ("hardware.device=tpu", "hardware.device must be one of auto, cpu, cuda, got 'tpu'"),
        ("hardware=gpu", "unknown hardware 'gpu': known are auto, cpu"),
        ("hardware.threads=999", "hardware.threads must be from 1 to"),
        ("hardware.memory_limit=lots", "hardware.memory_limit must be a size such as 8GiB"),
        ("hardware.allocator=magic", "hardware.allocator must be one of default, huge_pages"),
        ("experiment=nope", "unknown experiment 'nope': known are catalog, decode, demo"),
        ("sequence=3", "Key 'sequence' not in 'Schema': known are"),
        ("inputs=[foo]", "unknown inputs 'foo': known are gaussian"),
        ("probe=[foo]", "unknown probe 'foo': known are time"),
        ("probe.time.target=-1", "probe.time.target must be > 0, got -1"),
        ("extra=[{foo: 3}]", "extra[0] has no axis 'foo'"),
        ("extra=[3]", "extra[0] must be axes such as {heads: [1, 2]}, got 3"),
        ("baseline=nope", "unknown variant 'nope'"),
        ("name=../x", "not a run name: '../x'"),
        ("seq_len=[512", "cannot read 'seq_len=[512'"),
    ],
)
def test_a_mistake_is_one_line_with_value_limit_and_way_out(
    override: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((ConfigError, StoreError)) as caught:
        compose(SMOKE, override)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert "".join(capfd.readouterr()) == ""


def test_a_device_without_driver_is_refused() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        compose("hardware=cuda")


def test_decode_is_causal_whatever_the_axis_says() -> None:
    (w,) = one("phase=decode", "seq_len=64", "causal=false").workloads
    assert (w.phase, w.causal) == ("decode", True)


@pytest.mark.parametrize(
    ("batch", "fill", "lengths"),
    [
        (1, 0.25, (16,)),
        (2, 0.75, (64, 32)),
        (4, 0.5, (64, 43, 21, 1)),
        (3, 0.25, (32, 16, 1)),
        (2, 1.0, None),
    ],
)
def test_fill_spreads_lengths_evenly(batch: int, fill: float, lengths: object) -> None:
    (w,) = one("seq_len=64", f"batch={batch}", f"fill={fill}").workloads
    assert w.lengths == lengths


def test_fill_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fill must be > 0 and <= 1, got 1\.5"):
        compose("fill=1.5")
