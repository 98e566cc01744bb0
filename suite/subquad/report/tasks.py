"""What trained tasks say of every variant, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from subquad import units
from subquad.analyze.quality import chosen_lr, lost_seeds
from subquad.analyze.seeds import SeedDifference
from subquad.analyze.trained import Learned, TaskTable, Validity, Verdict
from subquad.report.embed import embed
from subquad.report.markdown import escape, table
from subquad.report.plots import Figure

ABSENT = "–"
MOST_TASKS = 6  # beside each other in one table
MOST_LINES = 200  # of a table that a page shows

TASKS = """\
The mean test score over seeds with its 95 % interval: the wider of Student's t over the seeds and
Wilson's over the questions of one seed. A task is INVALID where full attention (the best of the exact
variants) stays below *solved* in the mean, where it diverged, or where an answer that needs no
attention reaches *solved* (a shortcut, or a model with `control_mean`): its scores then say nothing.
Marks: ● solved (the mean reaches *solved*), ▲ surely above the best shortcut (one-sided, Holm over the
variants of the task), ? above it by its own interval alone, or with one seed and no interval, ▽ not to
be told from the best shortcut, or below it. A star: some seeds have no score and are left out of the
mean."""

MARKS = {
    Verdict.SOLVED: "●",
    Verdict.ABOVE_SHORTCUT: "▲",
    Verdict.UNDECIDED: "?",
    Verdict.AT_SHORTCUT: "▽",
}


def tasks_blocks(found: Sequence[TaskTable], figures: Sequence[Figure] = ()) -> list[str]:
    if not found:
        return []
    blocks = ["### Trained tasks", TASKS, *(block for f in figures for block in embed(f))]
    groups: dict[tuple[str, str], list[TaskTable]] = {}
    for t in found:
        groups.setdefault((t.run, t.hardware), []).append(t)
    for (run, hardware), mine in groups.items():
        if len(groups) > 1:
            blocks.append(f"**{escape(run)}, on {escape(hardware)}**")
        invalid = [t for t in mine if t.validity is not Validity.VALID]
        if invalid:
            lines = [f"- {escape(t.task)}: {t.validity}, {escape(t.why)}" for t in invalid]
            blocks.append("\n".join(lines))
        blocks += [tasks_table(mine[i : i + MOST_TASKS]) for i in range(0, len(mine), MOST_TASKS)]
        hashes = {t.task: t.data for t in mine if t.data}
        if hashes:
            told = "; ".join(f"{escape(task)} {escape(data)}" for task, data in hashes.items())
            blocks.append(f"sha256 of the data that examples were taken from: {told}.")
        learned = sum(r.measurement.score is not None for t in mine for r in t.rows)
        if learned > MOST_LINES:
            blocks.append(f"How the {learned} models were learned is in quality.csv.")
        elif learned:
            title = "How it was learned, and the difference to full attention:"
            blocks += [title, learning_table(mine)]
    return blocks


def tasks_table(found: Sequence[TaskTable]) -> str:
    """Variants by task: score, interval and mark; above them what a score must beat."""
    heads = [_task_head(t) for t in found]
    body = [["*solved*", *(ABSENT if t.solved is None else written(t.solved) for t in found)]]
    for name in dict.fromkeys(n for t in found for n in t.shortcuts):
        cells = [written(t.shortcuts[name]) if name in t.shortcuts else ABSENT for t in found]
        body.append([f"*shortcut: {escape(name)}*", *cells])
    for label in dict.fromkeys(r.label for t in found for r in t.rows):
        body.append([escape(label), *(_task_cell(t, t.of(label)) for t in found)])
    return table(["variant", *heads], body, right=heads)


def _task_head(t: TaskTable) -> str:
    better = "" if t.higher_is_better else ", lower is better"
    unit = "" if t.metric in ("", "accuracy") else f" ({escape(t.metric)}{better})"
    flag = "" if t.validity is Validity.VALID else f" **{t.validity}**"
    return f"{escape(t.task)}{unit}{flag}"


def _task_cell(t: TaskTable, r: Learned | None) -> str:
    if r is None:
        return ABSENT
    if r.mean is None:
        return str(r.measurement.status.value) if r.measurement.status != "ok" else ABSENT
    mark = MARKS[r.verdict] if t.validity is not Validity.INVALID and r.verdict in MARKS else ""
    lost = "*" if r.measurement.score and lost_seeds(r.measurement.score) else ""
    return f"{written(r.mean.value)}{escape(lost)} {_between(r.interval)} {mark}".strip()


def _between(interval: tuple[float, float] | None) -> str:
    return "[not determined]" if interval is None else f"[{', '.join(map(written, interval))}]"


def written(value: float) -> str:
    """A score: three decimals below 10."""
    text = f"{value:.3f}" if abs(value) < 10 else units.significant(value)
    return text.removeprefix("-") if text == "-0.000" else text


def learning_table(found: Sequence[TaskTable]) -> str:
    """One line a task and variant: how it was learned, and the difference to full attention."""
    head = ["task", "variant", "verdict", "minus full attention [95 % interval]", "learning rate"]
    head += ["seeds", "training", "parameters", "points at the source"]
    body = []
    for t in found:
        for r in t.rows:
            score = r.measurement.score
            if score is None:
                continue
            lr = chosen_lr(score)
            spent = sum(x.wall_s for x in score.trainings)
            body.append(
                [
                    escape(t.task),
                    escape(r.label),
                    t.validity.value if t.validity is Validity.INVALID else r.verdict.value,
                    "the reference" if r.label == t.reference else _against(r.against, r.differs),
                    ABSENT if lr is None else f"{lr:g}",
                    str(len(r.mean.by_seed) if r.mean else 0),
                    units.duration(spent),
                    str(score.parameters),
                    ABSENT if score.pointing is None else units.percent(score.pointing),
                ]
            )
    return table(head, body, right=head[3:])


def _against(d: SeedDifference | None, differs: bool) -> str:
    if d is None:
        return ABSENT
    sign: Callable[[float], str] = lambda v: f"{'+' if v > 0 else ''}{written(v)}"  # noqa: E731
    between = "not determined" if d.low is None or d.high is None else f"{sign(d.low)}, {sign(d.high)}"
    text = f"{sign(d.value)} [{between}]" + ("" if d.paired else " (not paired)")
    return f"{text} differs" if differs else text
