"""`spdnn infer`: any network, any features, from files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spdnn import Features, SparseLayer, SparseNetwork, load_features, save_features, save_network
from spdnn.infer import final_rows, load_labels
from spdnn.io import load_categories


@pytest.fixture
def files(tmp_path):
    """A small dense network with a positive bias, 40 rows with labels, and their exact final rows."""
    random = np.random.default_rng(3)
    first, second = random.normal(size=(12, 9)), random.normal(size=(9, 4))
    rows = random.normal(size=(40, 12)).astype(np.float32)
    layers = [
        SparseLayer.from_matrix(first, 0.25, bias_rule="all"),
        SparseLayer.from_matrix(second, -0.5, lower=-np.inf, bias_rule="all"),
    ]
    exact = np.maximum(rows.astype(np.float64) @ first + 0.25, 0) @ second - 0.5
    labels = exact.argmax(1)
    labels[:4] = (labels[:4] + 1) % 4
    save_network(SparseNetwork(layers), tmp_path / "net.safetensors")
    save_features(Features.from_dense(rows, labels=labels), tmp_path / "rows.safetensors")
    save_features(Features.from_dense(rows), tmp_path / "rows.npy")
    return tmp_path, exact, labels


def test_rows_categories_and_accuracy(spdnn, files):
    folder, exact, _ = files
    written = ("--output", folder / "out.npy", "--categories", folder / "out.tsv")
    outcome = spdnn(
        "infer", folder / "net.safetensors", folder / "rows.safetensors", "--engine", "scipy", *written, "--json"
    )
    facts = json.loads(outcome.out)
    assert outcome.status == 0
    assert np.allclose(load_features(folder / "out.npy").to_dense(), exact, atol=1e-5)
    assert np.array_equal(load_categories(folder / "out.tsv"), np.flatnonzero(exact.sum(1) > 0) + 1)
    assert facts["categories"] == (exact.sum(1) > 0).sum()
    assert facts["accuracy"] == pytest.approx(0.9)
    shifted = np.exp(exact - exact.max(1, keepdims=True))
    chances = shifted / shifted.sum(1, keepdims=True)
    labels = files[2]
    assert facts["cross_entropy"] == pytest.approx(-np.log(chances[np.arange(40), labels]).mean(), rel=1e-4)


def test_what_does_not_fit_is_printed(spdnn, files, stand_ins):
    arguments = ("infer", files[0] / "net.safetensors", files[0] / "rows.npy", "--engine", "cramped")
    remark = "features larger than the GPU: 3 row tiles of 70 rows"
    assert remark in " ".join(spdnn(*arguments).out.split())
    assert json.loads(spdnn(*arguments, "--json").out)["remark"] == remark


def test_labels_from_a_file(spdnn, files):
    folder, _, labels = files
    (folder / "labels.txt").write_text("\n".join(map(str, labels)) + "\n")
    arguments = ("infer", folder / "net.safetensors", folder / "rows.npy", "--engine", "scipy")
    assert "accuracy" not in spdnn(*arguments).out
    assert "90.00%" in spdnn(*arguments, "--labels", folder / "labels.txt").out


def test_other_bounds(spdnn, files):
    folder, exact, _ = files
    arguments = ("--lower", -0.5, "--upper", 0.75, "--engine", "scipy", "--output", folder / "out.npy")
    assert spdnn("infer", folder / "net.safetensors", folder / "rows.npy", *arguments).status == 0
    found = load_features(folder / "out.npy").to_dense()
    assert found.max() == 0.75
    assert found.min() == -0.5
    assert not np.allclose(found, np.clip(exact, -0.5, 0.75))


@pytest.mark.parametrize(
    ("content", "said"),
    [("1\n2\n", "40 labels"), ("1\n" * 39 + "one\n", "labels.txt:40"), ("1\n" * 39 + "-1\n", "labels.txt:40")],
)
def test_wrong_labels_are_one_line(spdnn, files, content, said):
    folder, *_ = files
    (folder / "labels.txt").write_text(content)
    outcome = spdnn("infer", folder / "net.safetensors", folder / "rows.npy", "--labels", folder / "labels.txt")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert said in outcome.err


@pytest.mark.parametrize(
    "arguments", [("--bias-rule", "non-zero"), ("--lower", "2", "--upper", "1"), ("--bias", "nan")]
)
def test_wrong_bounds_are_one_line(spdnn, files, arguments):
    folder, *_ = files
    outcome = spdnn("infer", folder / "net.safetensors", folder / "rows.npy", "--engine", "scipy", *arguments)
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1


def test_nothing_is_written_when_the_run_fails(spdnn, files):
    folder, *_ = files
    np.save(folder / "narrow.npy", np.zeros((3, 5), np.float32))
    before = set(folder.iterdir())
    outcome = spdnn("infer", folder / "net.safetensors", folder / "narrow.npy", "--output", folder / "out.npy")
    assert outcome.status == 1
    assert set(folder.iterdir()) == before


def test_labels_from_an_array(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.array([1, 0, 2], np.uint8))
    assert load_labels(path, 3).tolist() == [1, 0, 2]
    for wrong in (np.array([[1]]), np.array([0.5]), np.array([-1])):
        np.save(path, wrong)
        with pytest.raises(ValueError, match="Expected"):
            load_labels(path, 1)


@pytest.mark.parametrize("live", [[], [1, 4], [0, 1, 2, 3, 4]])
def test_final_rows_hold_every_row(live):
    from spdnn.engine import Activations

    values = np.arange(1.0, 1 + 3 * len(live), dtype=np.float32).reshape(len(live), 3)
    result = Activations(5, 3, np.array(live, np.int64), live=np.array(live, np.int64), values=values)
    assert np.array_equal(final_rows(result).to_dense(), result.to_dense())
