"""What a person sees while a sweep runs: a bar with the time left, and notes above it."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from subquad.plan import Group, Planned

QUIET_S = 30.0  # without a line, where there is no terminal


class Bar:
    """A progress bar on a terminal; where there is none, a line for each group that is timed, for each
    task that was learned, and at least every half minute.

    Cells count by the work declared for them, so that the time left is not told by the quick ones.
    Refreshes once a second: drawing takes time from what is measured.
    """

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[cells]} cells"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=1,
            speed_estimate_period=600,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=None, cells="0")
        self._total = 0
        self._done = 0
        self._said_s = monotonic()

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, groups: Sequence[Group]) -> None:
        cells = [p for group in groups for p in group.cells]
        self._total = len(cells)
        self._progress.update(self._task, total=sum(_weight(p) for p in cells), cells=self._count)
        workloads = "workload" if len(groups) == 1 else "workloads"
        self.say(f"{self.title}: {len(cells)} cells in {len(groups)} {workloads}")

    def doing(self, what: str) -> None:
        self._progress.update(self._task, description=what)
        due = monotonic() - self._said_s >= QUIET_S
        if not self.console.is_terminal and (due or what.startswith("time")):
            self.say(f"[{self._count}] {what}")

    def finished(self, planned: Planned) -> None:
        self._done += 1
        self._progress.update(self._task, advance=_weight(planned), cells=self._count)
        if planned.task is not None and not planned.refusal and not self.console.is_terminal:
            self.say(f"[{self._count}] {planned.task.label}: {planned.variant.name}")

    def say(self, text: str) -> None:
        self._said_s = monotonic()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @property
    def _count(self) -> str:
        return f"{self._done}/{self._total}"


def _weight(planned: Planned) -> float:
    """Seconds, roughly: a fixed part and some thirty calls at 30 GFLOP/s; little for refusals, and for
    a task what its trainings take."""
    if planned.refusal or planned.cost is None:
        return 0.01
    if planned.task is not None:
        return 0.05 * planned.task.steps
    return 0.8 + min(30.0, 30 * planned.cost.flops / 30e9)
