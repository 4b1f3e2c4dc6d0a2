"""What every command has in common: help, version, errors in one line, exit status, a fast start."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from spdnn import __version__
from spdnn.cli.options import parse_numbers, parse_size


def test_help_and_version(spdnn):
    assert spdnn("--version") == (0, f"spdnn {__version__}\n", "")
    for arguments in (("--help",), ()):
        outcome = spdnn(*arguments)
        assert outcome.status == 0
        for command in ("challenge", "infer", "generate", "doctor"):
            assert command in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["chalenge"],
        ["challenge", "--nothing"],
        ["challenge", "--repeat", "0"],
        ["challenge", "--layers", "many"],
        ["challenge", "--layers", "0"],
        ["challenge", "--memory-limit", "8GiX"],
        ["infer"],
        ["generate"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(spdnn, arguments):
    outcome = spdnn(*arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["challenge", "--engine", "scpy"], "Did you mean 'scipy'?"),
        (["challenge", "--engine", "scipy", "--dtype", "float8"], "Known: float16, float32, float64"),
        (["challenge", "--engine", "scipy", "--dtype", "float16"], "computes in float32 or float64, not float16"),
        (["challenge", "--neurons", "1000"], "1024, 4096, 16384 or 65536"),
        (["challenge", "--source", "minst"], "Did you mean 'mnist'?"),
        (["infer", "nowhere.safetensors", "nowhere.npy"], "nowhere.safetensors"),
        (["generate", "network", "--neurons", "7"], "1024, 4096, 16384 or 65536"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_status_1(spdnn, arguments, said):
    outcome = spdnn(*arguments)
    assert outcome.status == 1
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert said in outcome.err


def test_files_that_cant_be_read_are_one_line(spdnn, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", "secret.tsv")

    monkeypatch.setattr("spdnn.io.load_network", refuse)
    assert spdnn("infer", "a", "b") == (1, "", "error: secret.tsv: Permission denied\n")


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from spdnn.cli import run; status = run(['--help']);"
        "heavy = {'numpy', 'scipy', 'numba', 'torch', 'cupy', 'graphblas'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "challenge" in done.stdout


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -c 'from spdnn.cli import main; main()' doctor --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 << 30), ("500MB", 500_000_000), ("1.5 kib", 1536), ("1e9", 10**9), ("64", 64), ("2T", 2 * 10**12)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "8GiX", "-1", "0", "1.2.3GB", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(typer.BadParameter, match="expected"):
        parse_size(text)


def test_numbers():
    assert parse_numbers("120", "--layers") == [120]
    assert parse_numbers("120, 480,120", "--layers") == [120, 480]
    for text in ("", "a", "1,,2", "0", "-3"):
        with pytest.raises(typer.BadParameter, match="expected"):
            parse_numbers(text, "--layers")
