"""Running command lines inside the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import challenge_stand_ins
import pytest

from spdnn import cli, engine


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def spdnn(capsys, monkeypatch) -> Callable[..., Outcome]:
    """`spdnn("challenge", "--rows", 10)`: the exit status and what was printed."""
    monkeypatch.setenv("COLUMNS", "100")

    def command(*arguments: object) -> Outcome:
        status = cli.run([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return command


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Iterator[None]:
    """One cache for all tests of the command line, so that the inputs are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPDNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def stand_ins(monkeypatch) -> None:
    """The engines of `challenge_stand_ins` can be named."""
    for name, place in challenge_stand_ins.ENGINES.items():
        monkeypatch.setitem(engine.BUILT_IN, name, place)
