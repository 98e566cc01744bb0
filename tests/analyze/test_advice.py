"""What a report advises: exact by time, the others only where they are surely faster."""

from __future__ import annotations

from dataclasses import replace

from subquad.analyze.advice import Advice, advice, closeness_on
from subquad.analyze.slices import Slice, slices, timings
from subquad.analyze.summary import rows
from synthetic import BIGBIRD, LINEAR, LINFORMER, MEAN, NAIVE, SDPA, WINDOW, build_run
from synthetic_quality import with_fidelity


def advised(variants, seq_lens=(2048,), skills=None, **options) -> list[Advice]:
    run = build_run(variants, seq_lens, **options)
    if skills:
        run = with_fidelity(run, skills)
    (part,) = slices(rows(run))
    return advice(part, timings([run]))


def test_the_fastest_exact_variant_is_advised_with_those_that_tie():
    twin = replace(SDPA, name="full_twin")
    (found,) = advised((NAIVE, SDPA, twin), (1024,))
    assert found.exact is not None
    assert {found.exact.row["label"], *(r["label"] for r in found.exact.tied)} == {
        "full_sdpa",
        "full_twin",
    }


def test_without_intervals_nobody_is_said_to_be_beaten():
    (found,) = advised((NAIVE, SDPA, WINDOW), (1024,), processes=1)
    assert [r["label"] for r in found.exact.undetermined] == ["full_naive"]
    assert found.closest is None
    assert found.contenders == 1


def test_the_closest_has_the_best_skill_and_the_quickest_the_least_time():
    skills = {"local_window": {"captured": 0.7}, "sparse_bigbird": {"captured": 0.8}}
    (found,) = advised((NAIVE, SDPA, WINDOW, BIGBIRD, LINEAR), (8192,), skills)
    assert found.inputs == "captured"
    assert found.closest.row["label"] == "sparse_bigbird"
    assert found.closest.skill == 0.8
    assert found.quickest.row["label"] == "local_window"
    assert found.other.row["label"] == "linear_elu"
    assert found.closest.judged.interval.estimate < 1


def test_nothing_is_given_up_where_nothing_is_gained():
    """At 128 positions nothing is faster than the best exact kernel."""
    (found,) = advised((NAIVE, SDPA, WINDOW, BIGBIRD, LINEAR), (128,))
    assert found.contenders == 2
    assert (found.closest, found.quickest, found.other) == (None, None, None)


def test_what_is_worse_than_averaging_is_not_usable():
    skills = {"local_window": {"captured": -0.5}, "sparse_bigbird": {"captured": 0.4}}
    (found,) = advised((NAIVE, SDPA, WINDOW, BIGBIRD), (8192,), skills)
    assert found.closest.row["label"] == "sparse_bigbird"
    assert not found.closest.usable


def test_controls_and_failures_are_no_advice():
    (found,) = advised((NAIVE, MEAN), (1024,))
    assert found.exact.row["label"] == "full_naive"
    assert (found.closest, found.other, found.contenders) == (None, None, 0)


def test_without_exact_there_is_no_yardstick():
    (found,) = advised((WINDOW, LINEAR), (1024,))
    assert found.exact is None
    assert (found.closest, found.other) == (None, None)


def test_closeness_counts_on_the_most_telling_of_the_inputs_that_most_have():
    both = {"autoregressive": 0.5, "gaussian[scale=1]": 0.1}
    skills = {"local_window": both, "lowrank_linformer": {**both, "captured": 0.9}}
    run = with_fidelity(build_run((NAIVE, WINDOW, LINFORMER), (1024,)), skills)
    (part,) = slices(rows(run))
    assert closeness_on(part) == "autoregressive"
    assert closeness_on(slices(rows(build_run((NAIVE,), (1024,))))[0]) is None


def test_what_is_advised_at_one_length_does_not_hang_on_how_many_others_there_are():
    """Three processes survive no correction over hundreds of cells, whatever they show."""
    many = [replace(LINFORMER, name=f"lowrank_{i}") for i in range(12)]
    run = build_run((NAIVE, SDPA, WINDOW, *many), tuple(256 * 2**i for i in range(8)), processes=3)
    (part,) = slices(rows(run))
    together = advice(part, timings([run]))
    for found in together:
        alone = Slice(part.axes, tuple(part.at(found.seq_len)))
        (same,) = advice(alone, timings([run]))
        assert same.exact == found.exact
        assert same.quickest is None or same.quickest.judged == found.quickest.judged
        assert (same.quickest is None) == (found.quickest is None)
    assert together[-1].quickest is not None
