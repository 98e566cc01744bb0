"""From YAML and overrides to a `Sweep`: the one place, with cli.py, that knows Hydra.

Every variant, family of inputs and probe is a group option made from its own dataclass, so that
`variant=[local_window,linear_elu] variants.local_window.window=64` is checked for names and types.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from typing import Any, TypeVar

import hydra
import torch
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from subquad.contract import Variant, Workload
from subquad.discover import discover
from subquad.inputs import FAMILIES
from subquad.settings import PROBES, Hardware, ProbeSettings, Sweep
from subquad.store import check_name
from subquad.tasks import TASKS

AXES = (
    *("seq_len", "heads", "kv_heads", "head_dim", "batch", "kv_len", "fill"),
    *("dtype", "causal", "phase"),
)
OPTIONAL_AXES = ("kv_heads", "kv_len", "fill")
CONFIGS_GROUP = "subquad.configs"  # entry points; each value is a package that holds YAML files
TYPES: Mapping[str, type] = {"dtype": str, "phase": str, "causal": bool, "fill": float}


class ConfigError(Exception):
    """A configuration that cannot be used, in one line with the way out."""


@dataclass
class Schema:
    """The configuration of `subquad run`. Every axis takes one value or a list."""

    name: str = "sweep"
    baseline: str = "full_naive"
    seed: int = 0
    report: bool = True
    seq_len: Any = 1024
    heads: Any = 8
    kv_heads: Any = None
    head_dim: Any = 64
    batch: Any = 1
    kv_len: Any = None
    fill: Any = None  # share of positions that are no padding; None: all
    dtype: Any = "float32"
    causal: Any = False
    phase: Any = "forward"
    extra: list[Any] = field(default_factory=list)  # more grids: axes that differ from the above
    variants: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)
    hardware: Any = None


def main(overrides: list[str], job: Callable[[Sweep, DictConfig], None]) -> None:
    """Compose the configuration as a Hydra application and call `job` for each of its sweeps.

    Raises:
        ConfigError: anything wrong with the configuration, in one line.
    """
    register()
    failed: list[Exception] = []

    def composed(cfg: DictConfig) -> None:
        """One job. Hydra prints a failure in words of its own; it is raised again outside."""
        if failed:
            return
        try:
            job(to_sweep(cfg), cfg)
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["subquad run", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise: the message is made here
    app = hydra.main(version_base="1.3", config_path="pkg://subquad.configs", config_name="sweep")
    try:
        app(composed)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error
    if failed:
        raise failed[0]


class PluginConfigs(SearchPathPlugin):
    """Configurations of installed packages, after our own: `experiment=theirs` finds them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for entry in metadata.entry_points(group=CONFIGS_GROUP):
            search_path.append(provider=f"subquad-{entry.name}", path=f"pkg://{entry.value}")


def register() -> None:
    """Tell Hydra where plugins keep their YAML, and every option that is made from a dataclass."""
    Plugins.instance().register(PluginConfigs)
    store = ConfigStore.instance()
    store.store(name="schema", node=Schema)
    store.store(group="hardware", name="schema", node=_open(Hardware))
    variants = discover().variants
    for name, cls in variants.items():
        store.store(group="variant", name=name, node=_free(cls), package=f"variants.{name}")
    for name, members in choices(variants).items():
        store.store(group="variant", name=name, node={"defaults": members}, package="_global_")
    for name, family in FAMILIES.items():
        store.store(group="inputs", name=name, node=_free(family), package=f"inputs.{name}")
    for name, task in TASKS.items():
        store.store(group="task", name=name, node=_free(task), package=f"tasks.{name}")
    for name, settings in PROBES.items():
        store.store(group="probe", name=name, node=_open(settings), package=f"probe.{name}")


def choices(variants: Mapping[str, type[Variant]]) -> dict[str, list[str]]:
    """Options that stand for several variants: `all` and each family, unless a variant is named so."""
    by_family = sorted(variants, key=lambda name: _place(variants[name].family))
    found: dict[str, list[str]] = {"all": by_family}
    for name in by_family:
        found.setdefault(variants[name].family, []).append(name)
    return {name: members for name, members in found.items() if name not in variants}


def _place(family: str) -> int:
    """Where a family stands in a list of all: full attention first, controls last."""
    order = ("full", "score", "local", "sparse", "lowrank", "linear", "hierarchical", "memory")
    return order.index(family) if family in order else len(order) + (family == "control")


def configured(cls: type[Variant], params: Mapping[str, str]) -> Variant:
    """The variant with parameters given as text, read and checked as `subquad run` does.

    Raises:
        ConfigError: no such parameter, or a value of another type or outside its range.
    """
    known = ", ".join(f.name for f in fields(cls))
    for param in params:
        if param not in known.split(", "):
            raise ConfigError(f"{cls.name} has no parameter {param!r}: known are {known or 'none'}")
    node = _open(cls)
    try:
        node.merge_with_dotlist([f"{param}={text}" for param, text in params.items()])
        return cls(**_plain(node))
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error


def to_sweep(cfg: DictConfig) -> Sweep:
    """The sweep a composed configuration asks for.

    Raises:
        ConfigError: a value outside its range, in one line.
    """
    try:
        return _to_sweep(cfg)
    except (ValueError, LookupError) as error:
        raise ConfigError(str(error.args[0])) from error


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's message in one line, with what would have been right."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.partition("/")
        if group == "variant":
            try:
                discover()[option]
            except LookupError as unknown:
                return str(unknown.args[0])
        options = {"inputs": FAMILIES, "probe": PROBES, "task": TASKS}.get(group, error.options or ())
        known = ", ".join(o for o in options if o != "schema")
        if known:
            return f"unknown {group} {option!r}: known are {known}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: {_first_line(error)}"
    lines = [_first_line(error)]
    if lines[0].startswith("Ambiguous value"):
        lines.append("write a list as seq_len=[512,1024], or add --multirun for one job a value")
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException):
        lines.append(_first_line(cause))
        known = _known_keys(cause)
        if known:
            lines.append(f"known are {known}")
    return ": ".join(dict.fromkeys(line.rstrip(".:") for line in lines))


def _known_keys(error: OmegaConfBaseException) -> str:
    """The keys of the node in which a key was not found."""
    node = getattr(error, "parent_node", None)
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return ""
    return ", ".join(str(key) for key in node)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _open(cls: type) -> DictConfig:
    """A structured node that overrides may write to; a frozen dataclass composes read-only."""
    node: DictConfig = OmegaConf.structured(cls)
    OmegaConf.set_readonly(node, False)
    return node


def _free(cls: type) -> DictConfig:
    """A node with the fields of a dataclass whose values are checked later, by `instances`."""
    node = OmegaConf.create(_plain(_open(cls)))
    OmegaConf.set_struct(node, True)
    assert isinstance(node, DictConfig)
    return node


Made = TypeVar("Made")


def instances(cls: type[Made], node: DictConfig) -> list[Made]:
    """What a node asks for: one instance, or one for each value where a field is given a list.

    Raises:
        ConfigError: a value of another type, in one line.
        ValueError: a value outside its range.
    """
    given = _plain(node)
    listed = [name for name, value in given.items() if isinstance(value, list)]
    for name in listed:
        if not given[name]:
            raise ValueError(
                f"{getattr(cls, 'name', cls)}: {name} is an empty list: give one value or several"
            )
    made = []
    for values in itertools.product(*(given[name] for name in listed)):
        typed = _open(cls)
        try:
            typed.merge_with({**given, **dict(zip(listed, values, strict=True))})
        except OmegaConfBaseException as error:
            raise ConfigError(_first_line(error)) from error
        made.append(cls(**_plain(typed)))
    return made


def _to_sweep(cfg: DictConfig) -> Sweep:
    check_name(cfg.name)
    hardware = Hardware(**_plain(cfg.hardware))
    if hardware.name == "auto":  # the same cells as under the device's own name
        hardware = replace(hardware, name=hardware.resolved_device)
    if hardware.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"hardware.device=cuda, but torch {torch.__version__} sees no CUDA device: "
            "check nvidia-smi and the torch build, or use hardware=cpu"
        )
    catalog = discover()
    chosen = [v for name, node in cfg.variants.items() for v in instances(catalog[name], node)]
    if cfg.baseline not in cfg.variants:
        chosen.append(catalog[cfg.baseline]())
    inputs = tuple(f for name, node in cfg.inputs.items() for f in instances(FAMILIES[name], node))
    probes = _probes(cfg.probe)
    tasks = tuple(t for name, node in cfg.tasks.items() for t in instances(TASKS[name], node))
    if bool(tasks) != ("task" in probes):
        raise ValueError(
            "probe=task needs tasks and tasks need it: probe=task task=mqar; "
            f"known tasks are {', '.join(TASKS)}"
        )
    if not inputs:
        raise ValueError(f"inputs is empty: choose from {', '.join(FAMILIES)}")
    return Sweep(
        name=cfg.name,
        variants=tuple(chosen),
        workloads=workloads(_plain(cfg), hardware.resolved_device),
        inputs=inputs,
        hardware=hardware,
        probes=probes,
        baseline=cfg.baseline,
        seed=cfg.seed,
        tasks=tasks,
    )


def _probes(node: DictConfig) -> dict[str, ProbeSettings]:
    """Settings by probe, in the order they run in a child; a time needs its kernel and its gate."""
    chosen = {str(name): PROBES[str(name)](**_plain(settings)) for name, settings in node.items()}
    if "time" in chosen:
        for name in ("kernel", "gate"):
            chosen.setdefault(name, PROBES[name]())
    if not chosen:
        raise ValueError(f"probe is empty: choose from {', '.join(PROBES)}")
    order = ("memory", "kernel", "gate", "fidelity", "recall", "task", "time")
    return {name: chosen[name] for name in order if name in chosen}


def workloads(cfg: Mapping[str, Any], device: str) -> tuple[Workload, ...]:
    """The grid of the axes, and one more for each entry of `extra`."""
    axes = {axis: cfg[axis] for axis in AXES}
    grids = [axes]
    for number, entry in enumerate(cfg["extra"]):
        if not isinstance(entry, dict):
            raise ValueError(f"extra[{number}] must be axes such as {{heads: [1, 2]}}, got {entry!r}")
        unknown = set(entry) - set(AXES)
        if unknown:
            raise ValueError(
                f"extra[{number}] has no axis {sorted(unknown)[0]!r}: known are {', '.join(AXES)}"
            )
        grids.append({**axes, **entry})
    return tuple(
        _workload(dict(zip(AXES, values, strict=True)), device)
        for grid in grids
        for values in itertools.product(*(axis_values(a, grid[a]) for a in AXES))
    )


def _workload(axes: dict[str, Any], device: str) -> Workload:
    """One point of the grid. Decoding is causal, whatever the axis says."""
    fill = axes.pop("fill")
    if axes["phase"] == "decode":
        axes["causal"] = True
    lengths = None if fill is None else spread_lengths(axes["batch"], axes["seq_len"], fill)
    return Workload(**axes, device=device, lengths=lengths)


def spread_lengths(batch: int, seq_len: int, fill: float) -> tuple[int, ...]:
    """Lengths from seq_len down in even steps, so that about `fill` of all positions are valid.

    Below 1/2 the longest is shorter too: a batch is never emptier than one position a sequence.
    """
    if not 0.0 < fill <= 1.0:
        raise ValueError(f"fill must be > 0 and <= 1, got {fill}")
    longest = min(1.0, 2 * fill)
    least = 2 * fill - longest
    step = (longest - least) / max(1, batch - 1)
    shares = [longest - i * step for i in range(batch)] if batch > 1 else [fill]
    return tuple(max(1, round(seq_len * share)) for share in shares)


def axis_values(axis: str, value: Any) -> list[Any]:
    """The values of one axis, each of the axis' type."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError(f"{axis} is empty: give one value or a list such as [512, 1024]")
    kind = TYPES.get(axis, int)
    for item in values:
        if item is None and axis in OPTIONAL_AXES:
            continue
        if type(item) is not kind:
            raise ValueError(f"{axis} must be of type {kind.__name__}, got {item!r}")
    return values


def _plain(node: Any) -> Any:
    """Containers of OmegaConf as containers of Python."""
    if isinstance(node, DictConfig | ListConfig):
        return OmegaConf.to_container(node, resolve=True)
    return node
