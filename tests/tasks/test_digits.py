"""Digits: the images of scikit-learn, each in one split, read pixel by pixel."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn", reason="needs scikit-learn")

from subquad.tasks import digits as module
from subquad.tasks import shipped
from subquad.tasks.digits import Digits, images_of
from subquad.tasks.task import IGNORED, SPLITS, Batch
from subquad.variants.full_naive import FullNaive


def rows(images, digits):
    return [(*pixels, digit) for pixels, digit in zip(images.tolist(), digits.tolist(), strict=True)]


def test_the_splits_together_are_the_images_of_scikit_learn():
    from sklearn.datasets import load_digits

    real = load_digits()
    images = torch.from_numpy(real.data).long()
    expected = rows(images, torch.from_numpy(real.target))
    found = [row for split in SPLITS for row in rows(*images_of(split))]
    assert sorted(found) == sorted(expected)


def test_no_image_is_in_two_splits():
    seen = [set(rows(*images_of(split))) for split in SPLITS]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 1797


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_its_share_of_every_digit(split):
    everything = torch.cat([images_of(s)[1] for s in SPLITS])
    digits = images_of(split)[1]
    share = len(digits) / len(everything)
    expected = share * torch.bincount(everything, minlength=10)
    assert ((torch.bincount(digits, minlength=10) - expected).abs() <= 2).all()


def test_held_out_images_come_once_and_training_images_again_and_again():
    test = Digits().draw("test", 1024, 0)
    assert len(test.inputs) == len(set(map(tuple, test.inputs.tolist()))) == 512
    assert len(Digits().draw("train", 4096, 0).inputs) == 4096


def test_held_out_images_come_in_whole_batches():
    assert len(Digits(batch=48).draw("validation", 1000, 0).inputs) == 5 * 48
    with pytest.raises(ValueError, match=r"batch must be <= 256 .* got 300"):
        Digits(batch=300).draw("validation", 1000, 0)


def test_only_the_last_pixel_is_asked():
    batch = Digits().draw("train", 64, 1)
    assert batch.inputs.shape == batch.targets.shape == (64, 64)
    assert (batch.targets[:, :-1] == IGNORED).all()
    assert ((batch.targets[:, -1] >= 0) & (batch.targets[:, -1] < 10)).all()
    assert 0 <= batch.inputs.min() <= batch.inputs.max() == 16


def test_same_seed_same_bits_and_another_seed_another_batch():
    one, again, other = (Digits().draw("train", 16, seed) for seed in (3, 3, 4))
    assert torch.equal(one.inputs, again.inputs)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.inputs, other.inputs)


def test_shortcuts_find_the_pixel_that_tells():
    generator = torch.Generator().manual_seed(0)
    digits = torch.arange(320) % 10
    inputs = torch.randint(17, (320, 64), generator=generator)
    inputs[:, 20] = digits
    targets = torch.full((320, 64), IGNORED)
    targets[:, -1] = digits
    batch = Batch(inputs, targets)
    assert Digits().shortcuts(batch, batch) == {"majority": 0.1, "best pixel": 1.0}


def test_the_record_can_tell_which_file_it_was():
    assert Digits().data == "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


def test_a_missing_package_says_how_to_get_it():
    with pytest.raises(ValueError, match=r'needs nowhere-to-be: pip install "subquad\[tasks\]"'):
        shipped.shipped("nowhere_to_be", "nowhere-to-be", "x.csv")
    with pytest.raises(ValueError, match=r"pytest [0-9.]+ has no x\.csv: pip install"):
        shipped.shipped("pytest", "pytest", "x.csv")


def test_the_task_is_not_built_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(shipped.util, "find_spec", lambda name: None)
    module._file.cache_clear()
    with pytest.raises(ValueError, match=r'needs scikit-learn: pip install "subquad\[tasks\]"'):
        Digits()


def test_a_model_begins_with_as_much_to_tell_of_the_place_as_of_the_token():
    torch.manual_seed(0)
    task = Digits()
    model = task.model(FullNaive(), task.workload())
    tokens, places = model.embed.weight.std().item(), model.positions.std().item()
    assert tokens == pytest.approx(places, rel=0.1)


def test_a_model_answers_a_batch_with_a_score_for_every_digit():
    torch.manual_seed(0)
    task = Digits(batch=4)
    batch = task.draw("train", 4, 0)
    outputs = task.model(FullNaive(), task.workload())(batch.inputs)
    assert outputs.shape == (4, 64, 10)
    right, asked = task.score(outputs, batch.targets)
    assert asked == 4
    assert right == (outputs[:, -1].argmax(-1) == batch.targets[:, -1]).sum()
