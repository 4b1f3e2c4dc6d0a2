"""The reference engine keeps the laws every engine keeps."""

from engines.conformance import EngineConformance


class TestScipy(EngineConformance):
    engine = "scipy"


class TestScipyFloat64(EngineConformance):
    engine = "scipy"
    options = {"dtype": "float64"}  # noqa: RUF012
