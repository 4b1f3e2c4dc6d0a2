"""Synthetic digits."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from spdnn.data import digits
from spdnn.errors import InputError


def test_the_pixels_are_the_same_on_every_machine():
    images, labels = digits(5000)
    assert images.shape == (5000, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert digest == "6cce643b9baf86e3740c28c992dbba9913e4f073feedafb70640984470f43e7f"


def test_fewer_rows_are_the_beginning_of_more():
    images, labels = digits(4500, seed=3)
    few, few_labels = digits(130, seed=3)
    np.testing.assert_array_equal(images[:130], few)
    np.testing.assert_array_equal(labels[:130], few_labels)
    assert not np.array_equal(digits(130, seed=4)[0], few)
    assert digits(0)[0].shape == (0, 28, 28)


def test_digits_differ_from_one_another_and_can_be_told_apart():
    images, labels = digits(3000, seed=1)
    pixels = images.reshape(len(images), -1).astype(float)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    assert (pixels[:, [0, 27, 756, 783]] == 0).all()
    train, test = slice(0, 2000), slice(2000, None)
    distance = (pixels[test] ** 2).sum(1)[:, None] + (pixels[train] ** 2).sum(1) - 2 * pixels[test] @ pixels[train].T
    nearest = labels[train][distance.argmin(1)]
    assert (nearest == labels[test]).mean() > 0.85
    assert set(labels) == set(range(10))


@pytest.mark.parametrize(("rows", "seed"), [(-1, 0), (1, -1)])
def test_negative_numbers_are_refused(rows, seed):
    with pytest.raises(InputError, match=">= 0"):
        digits(rows, seed)
