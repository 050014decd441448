import numpy as np
import pytest

from normlab.errors import SpecError
from normlab.study.data import load
from normlab.study.data.examples import examples
from normlab.study.data.parts import hold_out
from normlab.study.job import DataSpec

DIGITS = "digits(train=600, validation=200)"


def dataset(**options):
    return load(DataSpec(name=DIGITS, **options))


def parts(data):
    return data.train, data.validation, data.test


def test_a_tenth_of_each_class_is_held_out_whatever_its_size():
    labels = np.repeat([0, 1, 2], [50, 20, 4])
    fit, held = hold_out(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[held]).tolist() == [5, 2, 1]
    assert sorted([*fit, *held]) == list(range(74))
    assert not np.array_equal(hold_out(labels, 0.1, np.random.default_rng(1))[1], held)


def test_the_split_depends_on_its_own_seed_alone():
    assert dataset(split_seed=3).train.rows.tolist() == dataset(split_seed=3, limit=800).train.rows.tolist()
    assert dataset(split_seed=3).train.rows.tolist() != dataset(split_seed=4).train.rows.tolist()


def test_a_limit_keeps_equally_many_of_each_class_and_the_share_for_validation():
    small, smaller = dataset(limit=85), dataset(limit=40)
    assert [set(np.bincount(part.labels)) for part in parts(small)] == [{6}, {2}, {8}]
    assert [set(np.bincount(part.labels)) for part in parts(smaller)] == [{3}, {1}, {4}]
    for few, many, every in zip(parts(smaller), parts(small), parts(dataset()), strict=True):
        assert set(few.rows) < set(many.rows) < set(every.rows)
        assert few.labels.tolist() == [dict(zip(every.rows, every.labels, strict=True))[row] for row in few.rows]


def test_a_limit_above_all_changes_nothing():
    for part, other in zip(parts(dataset(limit=100_000)), parts(dataset()), strict=True):
        assert part.rows.tolist() == other.rows.tolist()


@pytest.mark.parametrize("limit", [1, 19])
def test_a_limit_too_small_for_its_classes_is_told(limit):
    with pytest.raises(SpecError, match=rf"data.limit={limit} should be 20 or more: of each of the 10 classes"):
        dataset(limit=limit)


@pytest.mark.parametrize("share", [0.2, 0.55])
def test_label_noise_replaces_a_share_of_the_training_labels_by_other_classes(share):
    clean, noisy = dataset(), dataset(label_noise=share)
    changed = clean.train.labels != noisy.train.labels
    assert changed.sum() == round(share * 600)
    shifts = np.bincount((noisy.train.labels - clean.train.labels)[changed] % 10, minlength=10)
    assert shifts[0] == 0
    assert shifts[1:].min() > 0  # every other class is drawn
    for part, other in zip(parts(noisy)[1:], parts(clean)[1:], strict=True):
        assert part.labels.tolist() == other.labels.tolist()
    assert dataset(label_noise=share, split_seed=1).train.labels.tolist() != noisy.train.labels.tolist()


def test_what_one_study_spoils_another_does_not_see():
    before = dataset().train.labels.copy()
    dataset(label_noise=0.5)
    assert dataset().train.labels.tolist() == before.tolist()


def test_examples_on_a_cpu_are_views_of_the_pool():
    split = dataset().train
    there = examples(split, "cpu")
    assert there.pool.data_ptr() == split.pool.ctypes.data
    images, labels = there.batch(there.rows.new_tensor([5, 0, 599]))
    np.testing.assert_array_equal(images.numpy(), split.images[[5, 0, 599]])
    np.testing.assert_array_equal(labels.numpy(), split.labels[[5, 0, 599]])
