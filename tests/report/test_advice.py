"""The advice in words: who, how much faster, and when to stay with full attention."""

from __future__ import annotations

from subquad.analyze.advice import advice
from subquad.analyze.slices import slices, timings
from subquad.analyze.summary import rows
from subquad.report.advice import advice_section, in_short
from synthetic import BIGBIRD, LINEAR, MEAN, NAIVE, SDPA, WINDOW, build_run
from synthetic_quality import with_fidelity


def section(run) -> list[str]:
    return advice_section(slices(rows(run)), timings([run]))


def test_a_sentence_says_from_where_to_where():
    run = build_run((NAIVE, SDPA, WINDOW), (128, 256, 4096, 8192))
    (part,) = slices(rows(run))
    text = in_short(advice(part, timings([run])))
    assert text == (
        "Exact: full_sdpa from 128 to 8192. Faster and still close: none from 128 to 256; local_window "
        "from 4096 to 8192."
    )
    only = build_run((NAIVE, SDPA), (128,))
    (part,) = slices(rows(only))
    assert in_short(advice(part, timings([only]))) == "Exact: full_sdpa at 128."


def test_a_line_has_the_skill_the_ratio_and_its_interval():
    skills = {"local_window": {"captured": 0.7}, "sparse_bigbird": {"captured": 0.8}}
    run = with_fidelity(build_run((NAIVE, SDPA, WINDOW, BIGBIRD, LINEAR), (4096, 8192)), skills)
    text = "\n".join(section(run))
    line = next(x for x in text.splitlines() if x.startswith("| 8192 |"))
    cells = [c.strip() for c in line.strip("|").split("|")]
    assert cells[1] == "**full_sdpa**"
    assert cells[4:6] == ["sparse_bigbird", "0.80"]
    assert cells[6].count("x") == 3
    assert "[" in cells[6]
    assert "Skill is on captured inputs." in text


def test_what_is_too_far_off_is_named_with_its_skill_and_not_advised():
    skills = {"local_window": {"captured": 0.1}, "sparse_bigbird": {"captured": 0.4}}
    run = with_fidelity(build_run((NAIVE, SDPA, WINDOW, BIGBIRD), (8192,)), skills)
    text = "\n".join(section(run))
    assert "| none (the best of them, sparse_bigbird, has) | 0.40 on captured | – |" in text


def test_workloads_of_one_length_share_a_table():
    run = build_run((NAIVE, SDPA, WINDOW), (512,), causal=(False, True))
    blocks = section(run)
    assert sum(block.startswith("| seq_len") for block in blocks) == 1
    (table,) = (block for block in blocks if block.startswith("| seq_len"))
    assert len(table.splitlines()) == 4
    assert "not causal" in table


def test_controls_get_no_word_and_no_time_no_section():
    text = "\n".join(section(build_run((NAIVE, MEAN), (512, 1024))))
    assert "control_mean" not in text
    assert advice_section([], {}) == []
