"""Journals survive kills, garbage and full disks, and are read back as they were written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from subquad.contract import Cost, Workload
from subquad.record import Cell, Gate, Kernels, Part, Session, Status, Timing
from subquad.store import Journal, StoreError, check_name, export, load, read_journals, to_frame

GOLDEN = Path(__file__).parent / "golden"


def cell(seq_len: int = 8, variant: str = "full_naive") -> Cell:
    w = Workload(batch=1, heads=2, seq_len=seq_len, head_dim=4, causal=False)
    return Cell(variant, {"window": 3}, w, {"name": "cpu", "threads": 1}, {"family": "gaussian"})


def plan_part(seq_len: int = 8) -> Part:
    cost = Cost(flops=1, bytes=2, workspace_bytes=3, exponent=2.0)
    value = {"family": "full", "computes": "exact", "cost": asdict(cost)}
    return Part(cell(seq_len), "plan", Status.OK, value=value, environment="e")


def write(folder: Path, *parts: Part) -> Path:
    with Journal(folder, "cpu") as journal:
        journal.append("part", [p.to_json() for p in parts])
    return journal.path


def test_parts_come_back_equal(tmp_path: Path) -> None:
    part = plan_part()
    contents = read_journals([write(tmp_path, part)])
    assert list(contents.parts.values()) == [part]
    assert contents.warnings == []


def test_the_later_part_of_a_cell_counts(tmp_path: Path) -> None:
    first = Part(cell(), "gate", Status.ERROR, "once")
    later = Part(cell(), "gate", Status.OK, value=asdict(Gate(1e-7, 1e-6, 8)))
    write(tmp_path, plan_part(), first)
    write(tmp_path, later)
    (row,) = load(tmp_path).measurements
    assert (row.status, row.gate) == (Status.OK, Gate(1e-7, 1e-6, 8))


def test_a_torn_last_line_is_skipped_said_and_not_continued(tmp_path: Path) -> None:
    path = write(tmp_path, plan_part(8))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    torn = read_journals([path])
    assert torn.warnings == [f"{path} line 2 is torn off and skipped"]
    write(tmp_path, plan_part(16))
    assert len(load(tmp_path).measurements) == 2


@pytest.mark.parametrize(
    "garbage", [b"\xff\xfe\n", b"{}\n", b"[1]\n", b'{"kind": "part"}\n', b"null\n", b"\n"]
)
def test_garbage_never_raises_but_an_unknown_schema_does(tmp_path: Path, garbage: bytes) -> None:
    path = write(tmp_path, plan_part())
    path.write_bytes(garbage + path.read_bytes())
    if garbage.startswith(b"{"):
        with pytest.raises(StoreError, match="line 1 has schema version None"):
            read_journals([path])
    else:
        contents = read_journals([path])
        assert len(contents.parts) == 1
        assert "line 1" in contents.warnings[0]


def test_a_damaged_record_is_skipped_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, plan_part())
    with path.open("a") as file:
        file.write(json.dumps({"schema": 1, "kind": "part", "cell": {}}) + "\n")
    contents = read_journals([path])
    assert len(contents.parts) == 1
    assert "line 2 is damaged and skipped" in contents.warnings[0]


def test_another_schema_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path, plan_part())
    path.write_text(path.read_text().replace('"schema":3', '"schema":99'))
    with pytest.raises(StoreError, match="schema version 99, this subquad reads 1, 2, 3: use"):
        load(tmp_path)


def test_two_writers_of_one_shard_are_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, "cpu"),
        pytest.raises(StoreError, match="is being written by another run"),
    ):
        Journal(tmp_path, "cpu")
    Journal(tmp_path, "cpu").close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        Journal(tmp_path / "file" / "run", "cpu")


def test_a_full_disk_keeps_what_was_written_whole(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the write fails in the middle of a record."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_store import plan_part, Journal, StoreError
folder = Path({str(tmp_path)!r})
with Journal(folder, "cpu") as journal:
    journal.append("part", [plan_part(8).to_json()])
    size = journal.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
    try:
        journal.append("part", [plan_part(16).to_json()])
    except StoreError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "everything measured before is kept" in done.stdout
    contents = read_journals([tmp_path / "cpu.jsonl"])
    assert (len(contents.parts), contents.warnings) == (1, [])


def test_a_folder_without_journals_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a b", "/abs", "a/../b", "-x"])
def test_run_names_are_plain(name: str) -> None:
    with pytest.raises(StoreError, match="not a run name"):
        check_name(name)


def test_the_first_thing_that_went_wrong_is_the_status(tmp_path: Path) -> None:
    timing = asdict(Timing("s", ()))
    write(
        tmp_path,
        plan_part(),
        Part(cell(), "time", Status.OK, value=timing),
        Part(cell(), "gate", Status.INCORRECT, "off by one", asdict(Gate(1.0, 1e-6, 8))),
    )
    (row,) = load(tmp_path).measurements
    assert (row.status, row.reason, row.timing) == (Status.INCORRECT, "off by one", None)


def test_another_kernel_is_the_reason_before_what_follows_from_it(tmp_path: Path) -> None:
    kernels = Kernels(("bmm", "_softmax"), "ran bmm, _softmax, not flash")
    write(
        tmp_path,
        plan_part(),
        Part(cell(), "gate", Status.INCORRECT, "off by one", asdict(Gate(1.0, 1e-6, 8))),
        Part(cell(), "kernel", Status.INCORRECT, kernels.mismatch, asdict(kernels)),
    )
    (row,) = load(tmp_path).measurements
    assert (row.status, row.reason, row.kernels) == (Status.INCORRECT, kernels.mismatch, kernels)


def test_absent_stays_absent_and_integers_stay_integers() -> None:
    frame = to_frame([{"a": 1, "b": None, "c": 0.5}, {"a": None, "b": None, "c": None}])
    assert str(frame.a.dtype) == "Int64"
    assert frame.a.isna().tolist() == [False, True]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json"])
def test_export_is_read_back(tmp_path: Path, suffix: str) -> None:
    import pandas as pd

    path = tmp_path / f"rows.{suffix}"
    export([{"cell": "x", "time_s": 0.5}, {"cell": "y", "time_s": None}], path)
    frame = getattr(pd, f"read_{suffix}")(path)
    assert frame.cell.tolist() == ["x", "y"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("schema", ["schema_1", "schema_2"])
def test_a_golden_journal_is_still_read(schema: str) -> None:
    run = load(GOLDEN / schema)
    assert [m.status for m in run.measurements].count(Status.OK) >= 3
    assert run.warnings == ()
    assert all(isinstance(s, Session) for s in run.sessions.values())
    timed = [m for m in run.measurements if m.timing]
    assert timed
    assert all(m.memory and m.gate and m.deviations for m in timed)
    assert all(m.kernels is None for m in run.measurements), "they were not recorded then"


def test_the_first_journals_of_schema_3_are_still_read() -> None:
    run = load(GOLDEN / "schema_3")
    assert run.warnings == ()
    assert {m.cell.is_task for m in run.measurements} == {False, True}
    assert all(m.score for m in run.measurements if m.cell.is_task)
    deviations = [d for m in run.measurements for d in m.deviations if d.skill is not None]
    assert deviations
    assert all(d.skill_low is None for d in deviations), "it had no interval then"
    assert any(m.recall for m in run.measurements)


def test_cell_ids_of_schema_1_are_still_the_same() -> None:
    """Sessions name their reference by id: a field added later must not change it where unused."""
    run = load(GOLDEN / "schema_1")
    ids = {m.cell.id for m in run.measurements}
    assert {s.reference for s in run.sessions.values()} <= ids


def test_schema_2_holds_ragged_and_decoding_cells() -> None:
    workloads = [m.cell.workload for m in load(GOLDEN / "schema_2").measurements]
    assert {w.phase for w in workloads} == {"forward", "decode"}
    assert {w.lengths for w in workloads} == {None, (64, 32)}
