"""Whatever a user hands the command line by mistake: one line, a status that is not 0, nothing damaged."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from spdnn import Features, SparseLayer, SparseNetwork, save_features, save_network

LINES = "".join(f"{i}\t{j}\t0.5\n" for j in range(1, 7) for i in range(1, 6, 2))
HUGE = 2**31 - 1


@pytest.fixture
def folder(tmp_path):
    """A network of six neurons and four rows, in several formats."""
    weights = np.arange(36.0).reshape(6, 6) % 5 - 2
    network = SparseNetwork([SparseLayer.from_matrix(weights)])
    for name in ("net.safetensors", "net.mat", "net.mtx"):
        save_network(network, tmp_path / name)
    rows = Features.from_dense(np.random.default_rng(0).random((4, 6)).astype(np.float32))
    for name in ("x.npy", "x.safetensors", "x.tsv", "x.mtx"):
        save_features(rows, tmp_path / name)
    (tmp_path / "net.tsv").write_text(LINES)
    return tmp_path


def refused(spdnn, folder, *arguments, status=1):
    """Run a command that must fail in one line and change nothing; returns the line."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = spdnn(*arguments)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return outcome.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ":1: Expected at least one entry"),
        (LINES[:-2], ":18: Expected a line end"),
        (LINES[:-6], ":18: Expected 3 fields"),
        (LINES + "1\n", ":19: Expected 3 fields"),
        (LINES + "1\t2\t3\t4\n", ":19: Expected 3 fields"),
        (LINES + "1\ttwo\t3\n", ":19: Expected a whole number as output id, got 'two'"),
        (LINES + "-2\t2\t3\n", ":19: Expected a whole number as input id, got '-2'"),
        (LINES + "0\t2\t3\n", ":19: Expected input ids from 1"),
        (LINES + "7\t2\t3\n", ":19: Expected input ids from 1 to 6, got '7'"),
        (LINES + "2\t2\tnan\n", ":19: Expected a finite weight"),
        (LINES + "2\t2\t-1e999\n", ":19: Expected a finite weight"),
        (LINES + "5\t2\t1\n", ":19: Expected every entry once, got (5, 2) a second time"),
        (LINES + "\n2\t2\t1\n", ":19: Expected an entry, got an empty line"),
        ("\0\1\2\xff", ":1: Expected a whole number as input id"),
    ],
)
def test_layer_files(spdnn, folder, content, said):
    path = folder / "n6-l1.tsv"
    path.write_text(content, encoding="latin-1")
    assert said in refused(spdnn, folder, "infer", path, folder / "x.npy", "--bias", 0)


@pytest.mark.parametrize("name", ["net.safetensors", "net.mat", "net.mtx", "x.npy", "x.safetensors", "x.tsv", "x.mtx"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.97])
def test_cut_files(spdnn, folder, name, share):
    path = folder / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    net, rows = (path, folder / "x.npy") if name.startswith("net") else (folder / "net.safetensors", path)
    bias = () if net.suffix == ".safetensors" else ("--bias", 0)
    assert name in refused(spdnn, folder, "infer", net, rows, *bias)


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text[:15] + b"spoilt" + text[21:]])
def test_damaged_gzip(spdnn, folder, damage):
    path = folder / "n6-l1.tsv.gz"
    path.write_bytes(damage(gzip.compress(LINES.encode())))
    assert "gzip file" in refused(spdnn, folder, "infer", path, folder / "x.npy", "--bias", 0)


def test_sizes_that_memory_cannot_hold(spdnn, folder):
    (folder / "huge.tsv").write_text(f"{LINES}1\t{HUGE}\t1\n")
    (folder / "many.tsv").write_text(f"1\t1\t1\n{HUGE}\t2\t1\n")
    for arguments in (
        ("huge.tsv", "x.npy", "--bias", 0),
        ("net.tsv", "x.tsv", "--bias", 0, "--neurons", HUGE),
        ("net.safetensors", "x.tsv", "--rows", HUGE),
        ("net.safetensors", "many.tsv"),
    ):
        said = refused(spdnn, folder, "infer", *(folder / name for name in arguments[:2]), *arguments[2:])
        assert "of memory" in said


def test_memory_that_runs_out_is_one_line(spdnn, folder, monkeypatch):
    def run_out(*arguments, **options):
        raise MemoryError("Unable to allocate 2.00 TiB")

    monkeypatch.setattr("spdnn.io.load_network", run_out)
    assert "not enough memory: Unable" in refused(spdnn, folder, "infer", folder / "net.tsv", folder / "x.npy")


def test_numbers_past_float32(spdnn, folder):
    np.save(folder / "large.npy", np.full((4, 6), 1e300))
    said = refused(spdnn, folder, "infer", folder / "net.safetensors", folder / "large.npy")
    assert "float32 holds" in said
    outcome = spdnn(
        "infer", folder / "net.safetensors", folder / "large.npy", "--dtype", "float64", "--engine", "scipy"
    )
    assert outcome.status == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.txt", b"1\n" * 3 + b"9" * 40 + b"\n", "0..5"),
        ("l.txt", b"", "4 labels"),
        ("l.npy", b"", "array of labels"),
        ("l.npy", b"\x93NUMPY\x01\x00v\x00{'descr': [1,2" + b" " * 200, "array of labels"),
    ],
)
def test_labels(spdnn, folder, name, content, said):
    (folder / name).write_bytes(content)
    arguments = ("infer", folder / "net.safetensors", folder / "x.npy", "--labels", folder / name)
    assert said in refused(spdnn, folder, *arguments)


def test_folders_in_place_of_files_and_files_in_place_of_folders(spdnn, folder):
    net, rows = folder / "net.safetensors", folder / "x.npy"
    (folder / "empty").mkdir()
    for arguments, said in (
        (("infer", net, folder), "is a folder"),
        (("infer", folder / "empty", rows), "layer files"),
        (("infer", net, rows, "--labels", folder), "labels"),
        (("infer", net, rows, "--categories", folder), "is a folder"),
        (("infer", net, rows, "--output", rows / "out.npy"), "is a file"),
        (("infer", net, rows, "--output", "/proc/out.npy"), "Can't write"),
        (("generate", "network", "--layers", 1, "--output", net), "is a file"),
    ):
        assert said in refused(spdnn, folder, *arguments)


def test_a_cache_with_a_wrong_hash_is_left_as_it_is(spdnn, cache, tmp_path, monkeypatch):
    arguments = ("challenge", "--source", "digits", "--rows", 5, "--layers", 1, "--engine", "scipy")
    assert spdnn(*arguments).status == 0
    (good,) = (path for path in _cache().iterdir() if "1024" in path.name)
    monkeypatch.setenv("SPDNN_CACHE", str(tmp_path))
    spoilt = bytearray(good.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    for content in (bytes(spoilt), bytes(spoilt[:1000]), b""):
        (tmp_path / good.name).write_bytes(content)
        said = refused(spdnn, tmp_path, *arguments)
        assert str(tmp_path / good.name) in said
        assert "Delete it" in said


def test_a_misspelt_data_folder_is_said_whatever_the_cache_has(spdnn, cache, tmp_path, monkeypatch):
    arguments = ("challenge", "--source", "digits", "--rows", 5, "--layers", 1, "--engine", "scipy")
    assert spdnn(*arguments).status == 0
    monkeypatch.setenv("SPDNN_DATA", str(tmp_path / "nowhere"))
    assert "SPDNN_DATA" in refused(spdnn, tmp_path, *arguments)


def _cache():
    from spdnn.data.folders import cache_folder

    return cache_folder()


def test_a_machine_name_stays_in_its_folder(spdnn, cache, tmp_path):
    arguments = ("challenge", "--source", "digits", "--rows", 5, "--layers", 1, "--engine", "scipy", "--repeat", 1)
    for name in ("../elsewhere", "..", "a/b"):
        outcome = spdnn(*arguments, "--output", tmp_path / "records", "--machine", name)
        assert outcome.status == 1
        assert "machine's name" in outcome.err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_while_writing_leaves_whole_files_only(tmp_path):
    command = ["generate", "network", "--neurons", "4096", "--layers", "500", "--output", str(tmp_path)]
    code = f"from spdnn.cli import main; main({command!r})"
    layers = tmp_path / "neuron4096"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not list(layers.glob("n4096-l3.tsv")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in out + err
    assert err.decode().strip().endswith("interrupted")
    names = sorted(path.name for path in layers.iterdir())
    assert names == sorted(f"n4096-l{k + 1}.tsv" for k in range(len(names)))
    assert {path.read_bytes().count(b"\n") for path in layers.iterdir()} == {4096 * 32}
    shutil.rmtree(layers)
