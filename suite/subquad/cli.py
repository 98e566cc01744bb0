"""The `subquad` command. Imports what a subcommand needs only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subquad.arguments import parser

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from subquad.analyze.feasibility import Budget, Feasible
    from subquad.exchange import Side
    from subquad.record import Run
    from subquad.settings import Sweep

OK, FINDINGS, USAGE, INTERRUPTED = 0, 1, 2, 130
RESULTS, REPORTS = Path("results"), Path("reports")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; the exit code is 0 fine, 1 findings, 2 usage error in one clear line."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # Hydra reads the rest
        return _guarded(run_command, argv[1:])
    arguments = parser().parse_args(argv)
    return _guarded(COMMANDS[arguments.command], arguments)


def _guarded(command: Callable[[Any], int], argument: Any) -> int:
    """Turn what a user can mend into one line and exit code 2."""
    try:
        return command(argument)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        line = _usage_line(error)
        if line is None:
            raise
        print(f"subquad: {line}", file=sys.stderr)
        return USAGE


def _usage_line(error: Exception) -> str | None:
    """The line for an error that a user can mend; None for a bug."""
    from subquad.analyze.crossover import UnknownReference
    from subquad.analyze.question import QuestionError
    from subquad.config import ConfigError
    from subquad.hf.model import Refused
    from subquad.store import StoreError
    from subquad.sweep import SetupFailed

    if isinstance(
        error, ConfigError | Refused | StoreError | SetupFailed | QuestionError | UnknownReference
    ):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def run_command(overrides: list[str]) -> int:
    """subquad run [Hydra overrides]"""
    from subquad.isolate.server import start_server

    start_server()  # it imports torch while this process does the same
    from rich.console import Console

    from subquad import config, sweep
    from subquad.progress import Bar

    console = Console()
    names: dict[str, bool] = {}

    def job(asked: Sweep, cfg: DictConfig) -> None:
        names[asked.name] = cfg.report
        title = f"{asked.name} on {asked.hardware.name}"
        with Bar(console, title) as bar:
            sweep.run(asked, RESULTS, bar, ["subquad", "run", *overrides])

    config.main(overrides, job)
    for name, wants_report in names.items():
        _close(name, wants_report, console)
    return OK


def _close(name: str, wants_report: bool, console: Console) -> None:
    """The end of a run: the table, the report, and where the files are."""
    from subquad.analyze.summary import rows
    from subquad.report.terminal import closing
    from subquad.store import export

    run = _load(name)
    folder = RESULTS / name
    export(rows(run), folder / "cells.parquet")
    closing(run, console)
    written = [f"measurements  {folder}/"]
    if wants_report:
        written.append(f"report        {_report([run], REPORTS / name)}")
    console.print("\n".join(written), highlight=False)


def report_command(arguments: argparse.Namespace) -> int:
    """subquad report RUN... [-o DIR] [--against VARIANT]..."""
    runs = [_load(name) for name in arguments.runs]
    out = arguments.out or REPORTS / "-".join(run.name for run in runs)
    print(_report(runs, out, arguments.against))
    return OK


def _report(runs: list[Run], out: Path, against: Sequence[str] = ()) -> Path:
    from subquad.report.render import render

    return render(runs, out, against).html


def _load(name: str) -> Run:
    """A run by its name below results/, or by its folder."""
    from subquad.store import load

    folder = _folder(name)
    return load(folder, name if folder == RESULTS / name else None)


def _folder(name: str) -> Path:
    """Where a run is: below results/, or the folder of that name."""
    folder = RESULTS / name
    return Path(name) if not folder.is_dir() and Path(name).is_dir() else folder


def export_command(arguments: argparse.Namespace) -> int:
    """subquad export RUN -o FILE [--pytest-benchmark]"""
    if arguments.pytest_benchmark:
        return _export_benchmarks(arguments.run, arguments.out)
    from subquad.analyze.summary import rows
    from subquad.config import ConfigError
    from subquad.store import export

    kinds = (".parquet", ".csv", ".json")
    if arguments.out.suffix not in kinds:
        raise ConfigError(f"cannot export to {arguments.out}: end it in {', '.join(kinds)}")
    found = rows(_load(arguments.run))
    export(found, arguments.out)
    print(f"{arguments.out}: {len(found)} rows")
    return OK


def _export_benchmarks(name: str, out: Path) -> int:
    from subquad import exchange
    from subquad.analyze.sides import of_run
    from subquad.config import ConfigError

    if out.suffix != ".json":
        raise ConfigError(f"cannot export to {out}: pytest-benchmark reads a .json file")
    print(f"{out}: {exchange.write(of_run(_load(name)), out)} benchmarks")
    return OK


def variants_command(arguments: argparse.Namespace) -> int:
    """subquad variants [--json]"""
    from rich.console import Console

    from subquad.discover import discover
    from subquad.report.listing import catalog_table

    catalog = discover()
    if arguments.json:
        print(json.dumps(catalog.describe(), indent=2))
    else:
        catalog_table(catalog.describe(), Console())
    return OK


def check_command(arguments: argparse.Namespace) -> int:
    """subquad check VARIANT... [--json]"""
    from rich.console import Console

    from subquad import certificate, named

    chosen = named.variants(arguments.variants)
    console, found = Console(), []
    for variant in chosen:
        with console.status(variant.name) as status:
            found.append(certificate.certify(variant, doing=status.update))
        if not arguments.json:
            certificate.show(found[-1], console)
    if arguments.json:
        about = {"environment": certificate.environment()}
        print(json.dumps({**about, "certificates": [c.describe() for c in found]}, indent=2))
    return OK if all(c.verdict == certificate.PASSED for c in found) else FINDINGS


def new_command(arguments: argparse.Namespace) -> int:
    """subquad new NAME [--family FAMILY] [--package]"""
    from subquad import scaffold

    written = scaffold.new(arguments.name, arguments.family, arguments.package)
    print("\n".join(written))
    return OK


def compare_command(arguments: argparse.Namespace) -> int:
    """subquad compare BASE NEW [--threshold 5%] [--relative] [--across-hardware] [-o FILE.md]"""
    from rich.console import Console

    from subquad.analyze.compare import Options, compare, parse_share
    from subquad.report.comparison import page, show
    from subquad.report.comparison_json import document

    options = Options(
        parse_share(arguments.threshold),
        parse_share(arguments.margin),
        arguments.relative,
        arguments.across_hardware,
    )
    found = compare(_side(arguments.base), _side(arguments.new), options)
    if arguments.out:
        arguments.out.write_text(page(found), encoding="utf-8")
    if arguments.json:
        print(json.dumps(document(found), indent=2, allow_nan=False))
    else:
        show(found, Console(), arguments.all)
    return FINDINGS if found.failed else OK


def _side(name: str) -> Side:
    """A side of a comparison: a run, a .json file, or a folder of .json files."""
    from subquad import exchange
    from subquad.analyze.sides import of_run

    path = Path(name)
    journals = any((RESULTS / name).glob("*.jsonl")) or any(path.glob("*.jsonl"))
    if not journals and (path.suffix == ".json" or any(path.glob("*.json"))):
        return exchange.read(path)
    return of_run(_load(name))


def choose_command(arguments: argparse.Namespace) -> int:
    """subquad choose RUN --seq-len N [axes and limits] [--json]"""
    from rich.console import Console

    from subquad.analyze.choose import Limits, choose
    from subquad.analyze.question import OPTIONS
    from subquad.report.choice import as_json, show

    limits = Limits(
        *_memory_and_time(arguments), arguments.max_deviation, arguments.on, arguments.exact
    )
    asked = {axis: getattr(arguments, axis) for axis in OPTIONS}
    found = choose(_load(arguments.run).without_tasks(), arguments.seq_len, asked, limits)
    if arguments.json:
        print(json.dumps(as_json(found), indent=2))
    else:
        show(found, Console())
    return OK if found.overall else FINDINGS


def _memory_and_time(arguments: argparse.Namespace) -> tuple[int | None, float | None]:
    """Bytes and seconds of --memory and --time; None where they are not given."""
    from subquad import units
    from subquad.config import ConfigError

    try:
        memory = None if arguments.memory is None else units.parse_size(arguments.memory)
        return memory, None if arguments.time is None else units.parse_seconds(arguments.time)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def selftest_command(arguments: argparse.Namespace) -> int:
    """subquad selftest [--quick] [--only NAME]... [--json]"""
    from subquad.isolate.server import start_server

    start_server()  # it imports torch while this process does the same
    from rich.console import Console

    from subquad.selftest import runner
    from subquad.selftest.check import Budget

    chosen = runner.select(arguments.only, runner.CHECKS)
    verdict = runner.present(chosen, Budget(arguments.quick), Console(), quiet=arguments.json)
    if arguments.json:
        print(json.dumps(verdict.describe(), indent=2))
    return OK if verdict.passed else FINDINGS


def feasible_command(arguments: argparse.Namespace) -> int:
    """subquad feasible RUN [--memory SIZE] [--time TIME] [axes] [--variant NAME...] [--confirm]"""
    from rich.console import Console

    from subquad.analyze.feasibility import Budget, Known, NothingMatches, feasible
    from subquad.config import ConfigError
    from subquad.report.limits import as_json, show

    try:
        budget = Budget(*_memory_and_time(arguments))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    axes = ("heads", "head_dim", "batch", "phase", "hardware", "causal")
    where = {axis: getattr(arguments, axis) for axis in axes if getattr(arguments, axis) is not None}
    run = _load(arguments.run).without_tasks()
    try:
        found = feasible(run, budget, where, arguments.variant)
    except NothingMatches as error:
        raise ConfigError(str(error)) from error
    if arguments.confirm:
        found = _confirmed(found, run, arguments.run, budget, Console(stderr=arguments.json))
    if arguments.json:
        print(json.dumps(as_json(found, budget), indent=2, allow_nan=False))
    else:
        show(found, budget, Console())
    refuted = any(a.known is Known.NOT_CONFIRMED for part in found for a in part.answers)
    return FINDINGS if refuted else OK


def _confirmed(
    found: list[Feasible], run: Run, name: str, budget: Budget, console: Console
) -> list[Feasible]:
    """Answers after one measurement of each predicted length, into the run itself."""
    from subquad.analyze.summary import rows
    from subquad.config import ConfigError
    from subquad.confirm import CannotConfirm, confirm
    from subquad.progress import Bar
    from subquad.store import export

    folder, command = _folder(name), ["subquad", *sys.argv[1:]]
    try:
        found = confirm(found, run, folder, budget, lambda title: Bar(console, title), command)
    except CannotConfirm as error:
        raise ConfigError(str(error)) from error
    cells = folder / "cells.parquet"
    if cells.exists():
        export(rows(_load(name)), cells)
    return found


def capture_command(arguments: argparse.Namespace) -> int:
    """subquad capture MODEL --text FILE [--layers 0,5] [--heads 0,1] [--positions N] -o FILE"""
    from subquad.hf.command import run_capture

    a = arguments
    run_capture(a.model, a.text, a.layers, a.heads, a.positions, a.windows, a.out)
    return OK


def swap_command(arguments: argparse.Namespace) -> int:
    """subquad swap MODEL VARIANT [--param NAME=VALUE]... --text FILE [--layers 0,1] [--json]"""
    from subquad.hf.command import run_swap

    a = arguments
    run_swap(a.model, a.variant, a.param, a.text, a.layers, a.positions, a.windows, a.json)
    return OK


def maps_command(arguments: argparse.Namespace) -> int:
    """subquad maps VARIANT... [--inputs FAMILY [SETTING=VALUE]...] [axes] [--causal] [-o DIR]"""
    from subquad import maps, named
    from subquad.config import ConfigError
    from subquad.contract import Workload

    a = arguments
    try:
        w = Workload(1, a.heads, a.seq_len, a.head_dim, a.causal)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    family = maps.chosen_family(a.inputs)
    print(maps.make(named.variants(a.variants), w, family, a.out or REPORTS / "maps").page)
    return OK


def info_command(arguments: argparse.Namespace) -> int:
    """subquad info [--json]"""
    from rich.console import Console

    from subquad import environment
    from subquad.report.listing import info_table
    from subquad.settings import Hardware

    record = {
        **environment.describe(Hardware()),
        **environment.describe_now(["subquad", "info"]),
    }
    if arguments.json:
        print(json.dumps(record, indent=2))
    else:
        info_table(record, Console())
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "report": report_command,
    "variants": variants_command,
    "check": check_command,
    "new": new_command,
    "export": export_command,
    "compare": compare_command,
    "choose": choose_command,
    "selftest": selftest_command,
    "feasible": feasible_command,
    "capture": capture_command,
    "swap": swap_command,
    "maps": maps_command,
    "info": info_command,
}


if __name__ == "__main__":
    sys.exit(main())
