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
    assert "subquad.variants.local_window" in environment.related(bigbird)
    assert "subquad.variants.linear_elu" not in environment.related(bigbird)
    assert environment.related("plants") == ["plants"]


def test_every_variant_has_a_code_id_of_its_own() -> None:
    ids = {name: environment.code_id(cls) for name, cls in discover().variants.items()}
    alone = {k: v for k, v in ids.items() if k not in ("full_sdpa_math", "full_sdpa_flash")}
    assert len(set(alone.values())) == len(alone)
    assert environment.code_id(Plain) not in ids.values()
