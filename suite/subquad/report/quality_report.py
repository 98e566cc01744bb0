"""Everything a report says of quality: fidelity, recall, tasks, and the fronts against cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from subquad.analyze.fronts import Front, fronts, invalid_tasks
from subquad.analyze.trained import TaskTable
from subquad.record import Run
from subquad.report.embed import embed
from subquad.report.fidelity import fidelity_csv
from subquad.report.front_figures import draw_fronts
from subquad.report.fronts import fronts_csv, fronts_section
from subquad.report.plots import Figure
from subquad.report.quality import quality_csv, quality_section
from subquad.report.recall import recall_section
from subquad.report.recall_figures import draw_recall
from subquad.report.task_figure import draw_tasks


@dataclass(frozen=True)
class Figures:
    """What was drawn, by the section it belongs to."""

    fronts: tuple[Figure, ...]
    recall: tuple[Figure, ...]
    tasks: tuple[Figure, ...]

    @property
    def all(self) -> tuple[Figure, ...]:
        return self.fronts + self.recall + self.tasks


@dataclass(frozen=True)
class Quality:
    """The quality of the variants of some runs, as figures, tables and text."""

    runs: tuple[Run, ...]
    fronts: tuple[Front, ...]
    invalid: tuple[TaskTable, ...]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Quality:
        return cls(tuple(runs), tuple(fronts(runs)), tuple(invalid_tasks(runs)))

    def draw(self, machine: str, out: Path) -> Figures:
        return Figures(
            fronts=tuple(draw_fronts(self.fronts, machine, out)),
            recall=tuple(draw_recall(self.runs, machine, out)),
            tasks=tuple(draw_tasks(self.runs, machine, out)),
        )

    def tables(self, out: Path) -> dict[Path, str]:
        """CSV files and what goes into them; none where nothing was asked about quality."""
        found = {}
        measured = [m for run in self.runs for m in run.measurements]
        if any(m.deviations or m.recall or m.cell.is_task for m in measured):
            found[out / "quality.csv"] = quality_csv(self.runs)
        if any(m.deviations for m in measured):
            found[out / "fidelity.csv"] = fidelity_csv(self.runs)
        if self.fronts:
            found[out / "fronts.csv"] = fronts_csv(self.fronts)
        return found

    def blocks(self, figures: Figures) -> list[str]:
        """Sections of Markdown, the fronts first."""
        recall = recall_section(self.runs)
        return [
            *fronts_section(self.fronts, figures.fronts, self.invalid),
            *quality_section(self.runs, figures.tasks),
            *recall[:1],
            *(block for figure in figures.recall for block in embed(figure)),
            *recall[1:],
        ]
