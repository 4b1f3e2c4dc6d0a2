"""Softmax, accuracy and cross entropy against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import spdnn
from spdnn import InputError, accuracy, cross_entropy, softmax

MATRICES = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 7)), elements=st.floats(-20, 20, width=32)
)


@given(values=MATRICES, data=st.data())
def test_cross_entropy_is_the_mean_of_minus_log_probability(values, data):
    rows, classes = values.shape
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)))
    total = 0.0
    for row, label in zip(values.tolist(), labels.tolist(), strict=True):
        total -= math.log(math.exp(row[label]) / math.fsum(math.exp(v) for v in row))
    assert cross_entropy(values, labels) == pytest.approx(total / rows, rel=1e-12, abs=1e-12)
    target = np.eye(classes)[labels]
    assert cross_entropy(values, labels) == pytest.approx(-(target * np.log(softmax(values))).sum() / rows, abs=1e-9)


@given(values=MATRICES, shift=st.floats(-1e6, 1e6))
def test_softmax_sums_to_one_and_ignores_a_shift(values, shift):
    chances = softmax(values)
    assert chances.dtype == np.float64
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(softmax(values + shift), chances, rtol=1e-8)


def test_equal_values_give_the_log_of_the_number_of_classes():
    assert cross_entropy(np.zeros((3, 10)), [0, 4, 9]) == pytest.approx(math.log(10), rel=1e-15)


def test_extreme_values_stay_finite():
    values = np.array([[1e300, -1e300], [-1e300, 1e300], [0.0, 800.0]])
    assert cross_entropy(values, [0, 1, 1]) == 0.0
    assert cross_entropy(values[2:], [0]) == 800.0
    assert np.array_equal(softmax(values), [[1, 0], [0, 1], [0, 1]])


def test_float32_and_integers_are_computed_in_float64():
    values = np.array([[3, 1, 2], [0, 5, 5]])
    exact = cross_entropy(values.astype(np.float64), [0, 1])
    assert cross_entropy(values.astype(np.float32), [0, 1]) == exact
    assert cross_entropy(values, np.array([0, 1], np.uint8)) == exact


def test_accuracy_takes_the_first_of_equal_values():
    values = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0], [3.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    assert accuracy(values, [1, 0, 0, 0]) == 0.75
    assert accuracy(values, [2, 1, 1, 1]) == 0.0


def test_inputs_are_not_changed():
    values = np.arange(6.0).reshape(2, 3)
    before = values.copy()
    cross_entropy(values, [0, 1])
    softmax(values)
    accuracy(values, [0, 1])
    assert np.array_equal(values, before)


@pytest.mark.parametrize("metric", [cross_entropy, accuracy])
@pytest.mark.parametrize(
    ("values", "labels", "said"),
    [
        (np.zeros((2, 3)), [0], r"Expected 2 labels.*\(1,\)"),
        (np.zeros((2, 3)), [[0], [1]], r"Expected 2 labels"),
        (np.zeros(3), [0, 1, 2], "2-D"),
        (np.zeros((2, 0)), [0, 0], "2-D"),
        (np.zeros((2, 3), complex), [0, 0], "real numbers"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one row"),
        (np.zeros((2, 3)), [0, 3], r"0\.\.2.*got 3 at row 1"),
        (np.zeros((2, 3)), [-1, 0], r"0\.\.2.*got -1 at row 0"),
        (np.zeros((2, 3)), [0.0, 1.0], "integers, got float64"),
        (np.zeros((2, 3)), [True, False], "integers, got bool"),
        (np.array([[0, 1], [np.nan, 0]]), [0, 1], "got nan at row 1, class 0"),
        (np.array([[0, np.inf]]), [0], "got inf at row 0, class 1"),
    ],
)
def test_wrong_input_is_said(metric, values, labels, said):
    with pytest.raises(InputError, match=said):
        metric(values, labels)


def test_they_are_public():
    assert spdnn.cross_entropy is cross_entropy
    assert {"cross_entropy", "accuracy", "softmax"} <= set(spdnn.__all__)
