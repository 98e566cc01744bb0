"""What a fingerprint depends on, and what it does not."""

from __future__ import annotations

import json

from plants import Plain
from subquad import environment
from subquad.discover import discover
from subquad.settings import Hardware


def test_equal_machines_have_equal_records_and_other_threads_another() -> None:
    one = environment.describe(Hardware(device="cpu", threads=1))
    again = environment.describe(Hardware(device="cpu", threads=1, memory_limit="1GiB"))
    other = environment.describe(Hardware(device="cpu", threads=1, allocator="retain"))
    assert environment.environment_id(one) == environment.environment_id(again)
    assert environment.environment_id(one) != environment.environment_id(other)
    assert json.loads(json.dumps(one)) == one


def test_what_a_variant_borrows_from_its_neighbours_is_part_of_its_code() -> None:
    bigbird = discover()["sparse_bigbird"].__module__
    assert "subquad.variants.engines.blocks" in environment.related(bigbird)
    assert "subquad.variants.linear_elu" not in environment.related(bigbird)
    assert environment.related("plants") == ["plants"]


def test_variants_of_different_files_have_different_code_ids() -> None:
    classes = discover().variants.values()
    ids = {cls.__module__: environment.code_id(cls) for cls in classes}
    assert len(set(ids.values())) == len(ids)
    assert all(environment.code_id(cls) == ids[cls.__module__] for cls in classes)
    assert environment.code_id(Plain) not in ids.values()
