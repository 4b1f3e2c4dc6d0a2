"""Every CUDA source of every engine compiles with NVRTC, in all forms it is used in; no GPU needed."""

from __future__ import annotations

import itertools

import pytest

from spdnn.engines.cuda import bands, crew, loader, pieces
from spdnn.errors import InputError

pytest.importorskip("cupy", reason="needs CuPy and NVRTC: pip install 'spdnn[nvrtc]'")
CUDA = "spdnn.engines.cuda"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
INDEX = [{"INDEX": "u16"}, {"INDEX": "u32"}]
VALUES: list[dict[str, str]] = [{}, {"HALF": "1"}]
FORMS = {
    "fused": [
        {
            "ROWS": rows,
            "QUADS": quads,
            "THREADS": threads,
            "BLOCKS": blocks,
            "PITCH": pitch,
            "TAKEN": taken,
            "GROUP": group,
            "INDEX": index,
        }
        for rows, taken, quads, threads, blocks, pitch, group, index in [
            (32, 32, 1, 512, 2, 0, 1, "u16"),
            (32, 32, 2, 512, 2, 0, 1, "u16"),
            (16, 16, 4, 1024, 1, 1028, 1, "u16"),
            (16, 14, 4, 512, 1, 0, 1, "u32"),
            (4, 4, 1, 1024, 1, 0, 1, "u16"),
            (8, 8, 1, 512, 1, 0, 8, "u16"),
            (16, 16, 1, 512, 2, 0, 8, "u32"),
        ]
    ],
    "placed": [{"THREADS": threads, "INDEX": "u16"} for threads in (512, 1024)],
    "pieces": [
        {"THREADS": 2 * pieces.MOST_OUTPUTS, "SLOTS": pieces.MOST_INPUTS, "STAGES": stages, "INDEX": "u16"}
        for stages in (1, 2)
    ],
    "few": [
        {"THREADS": threads, "AHEAD": ahead, **index}
        for threads, ahead, index in itertools.product((64, 1024), (1, 3), INDEX)
    ],
    "crew": [
        {"THREADS": crew.THREADS, "AHEAD": crew.AHEAD, "BUFFERS": crew.BUFFERS, "DENSE": 2, **index} for index in INDEX
    ],
    "staged": [
        {"GROUP": g, "WARPS": warps, "STAGES": stages, "SLOTS": 96, "WEIGHTS": 2560, **INDEX[0]}
        for g, warps, stages in [(1, 20, 2), (8, 10, 2), (1, 20, 1)]
    ],
    "staged_half": [
        {"GROUP": g, "WARPS": warps, "STAGES": stages, "SLOTS": 96, "WEIGHTS": 2560, **INDEX[0], **VALUES[1]}
        for g, warps, stages in [(1, 20, 2), (8, 8, 2), (1, 20, 1)]
    ],
    "stream": [{"GROUP": g, **index, **values} for g, index, values in itertools.product((1, 8), INDEX, VALUES)],
    "bands": [
        {"WARPS": bands.WARPS, "UNITS": bands.UNITS, "STAGE": bands.STAGE, "DEPTH": bands.DEPTH, "CLUSTER": cluster}
        for cluster in (1, 2)
    ],
    "tiles": [{**index, **values} for index, values in itertools.product(INDEX, [*VALUES, {"ROWS": 4}])],
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", loader.kernel_names(CUDA))
def test_compiles(name, arch):
    for defines in FORMS.get(name, INDEX):
        assert loader.compile_source(CUDA, name, arch=arch, defines=defines)[:4] == b"\x7fELF"


def test_gives_ptx():
    assert b".target sm_90" in loader.compile_source(CUDA, "settle", arch="sm_90", ptx=True)


def test_includes_are_put_in_place_once():
    text = loader.read_source(CUDA, "settle")
    assert "#include" not in text
    assert text.count("struct Layer {") == 1


def test_a_missing_source_is_named():
    with pytest.raises(InputError, match=r"kernels/nothing\.cu"):
        loader.compile_source(CUDA, "nothing", arch="sm_90")


def test_compiler_messages_are_shown():
    with pytest.raises(InputError, match=r"fused\.cu doesn't compile for sm_90(.|\n)*ROWS"):
        loader.compile_source(CUDA, "fused", arch="sm_90")
