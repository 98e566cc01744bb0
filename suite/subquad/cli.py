"""The `subquad` command. Imports what a subcommand needs only when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from subquad.record import Run
    from subquad.settings import Sweep

OK, FINDINGS, USAGE, INTERRUPTED = 0, 1, 2, 130
RESULTS, REPORTS = Path("results"), Path("reports")


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; the exit code is 0 fine, 1 findings, 2 usage error in one clear line."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # Hydra reads the rest
        return _guarded(run_command, argv[1:])
    arguments = _parser().parse_args(argv)
    return _guarded(arguments.command, arguments)


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
    from subquad.config import ConfigError
    from subquad.store import StoreError
    from subquad.sweep import SetupFailed

    if isinstance(error, ConfigError | StoreError | SetupFailed):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="subquad", description="Benchmarks of attention: time, memory and accuracy."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "run",
        help="measure a sweep: subquad run experiment=demo, subquad run seq_len=[512,1024] heads=8",
        add_help=False,
    )
    report = commands.add_parser("report", help="write tables and plots of one or more runs")
    report.add_argument("runs", nargs="+", metavar="RUN", help="a name below results/, or a folder")
    report.add_argument("-o", "--out", type=Path, help="folder to write; default reports/RUN")
    report.set_defaults(command=report_command)
    variants = commands.add_parser("variants", help="list the variants, and what did not load")
    variants.add_argument("--json", action="store_true", help="as JSON")
    variants.set_defaults(command=variants_command)
    check = commands.add_parser(
        "check",
        help="hold variants against what every variant owes, and print a certificate of each",
        description="Exit code 1 where a check failed or nothing of a variant could be tested here.",
    )
    check.add_argument(
        "variants",
        nargs="+",
        metavar="VARIANT",
        help="a name, module:Class or file.py[:Class]; NAME.PARAMETER=VALUE sets a parameter",
    )
    check.add_argument("--json", action="store_true", help="as JSON")
    check.set_defaults(command=check_command)
    new = commands.add_parser("new", help="write a variant that runs and passes its check: start there")
    new.add_argument("name", metavar="NAME", help="<family>_<what>, or <what> with --family")
    new.add_argument("--family", help="such as local or linear; by itself where NAME begins with one")
    new.add_argument(
        "--package", action="store_true", help="a package to install, with test and config"
    )
    new.set_defaults(command=new_command)
    export = commands.add_parser("export", help="write one row a cell")
    export.add_argument("run", metavar="RUN", help="a name below results/, or a folder")
    export.add_argument("-o", "--out", type=Path, required=True, help="a .parquet, .csv or .json file")
    export.set_defaults(command=export_command)
    info = commands.add_parser("info", help="tell what this machine and this installation are")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(command=info_command)
    return parser


def run_command(overrides: list[str]) -> int:
    """subquad run [Hydra overrides]"""
    from subquad.isolate.pool import start_server

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
    from subquad.report.terminal import closing_table
    from subquad.store import export

    run = _load(name)
    found = rows(run)
    folder = RESULTS / name
    export(found, folder / "cells.parquet")
    closing_table(found, console)
    written = [f"measurements  {folder}/"]
    if wants_report:
        written.append(f"report        {_report([run], REPORTS / name)}")
    console.print("\n".join(written), highlight=False)


def report_command(arguments: argparse.Namespace) -> int:
    """subquad report RUN... [-o DIR]"""
    runs = [_load(name) for name in arguments.runs]
    out = arguments.out or REPORTS / "-".join(run.name for run in runs)
    print(_report(runs, out))
    return OK


def _report(runs: list[Run], out: Path) -> Path:
    from subquad.report.render import render

    return render(runs, out).page


def _load(name: str) -> Run:
    """A run by its name below results/, or by its folder."""
    from subquad.store import load

    folder = RESULTS / name
    if not folder.is_dir() and Path(name).is_dir():
        return load(Path(name))
    return load(folder, name)


def export_command(arguments: argparse.Namespace) -> int:
    """subquad export RUN -o FILE"""
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


if __name__ == "__main__":
    sys.exit(main())
