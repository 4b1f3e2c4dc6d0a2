"""Engines that are wrong or too large in a known way, to see that the challenge notices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from spdnn.engine import Activations, Options, Plan
from spdnn.engines.scipy import ScipyEngine, ScipyPlan
from spdnn.errors import MemoryLimitError
from spdnn.network import SparseNetwork


class ForgetfulPlan(ScipyPlan):
    """Loses the first positive row and takes the first other row for positive."""

    def _execute(self, *arguments: Any, **options: Any) -> Activations:
        result = super()._execute(*arguments, **options)
        others = np.setdiff1d(np.arange(result.rows), result.positive)
        return replace(result, positive=np.union1d(result.positive[1:], others[:1]))


class ForgetfulEngine(ScipyEngine):
    name = "forgetful"

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        return ForgetfulPlan(network, rows, options)


class ImprecisePlan(ScipyPlan):
    """Finds the right rows with values that are 1% off."""

    def _execute(self, *arguments: Any, **options: Any) -> Activations:
        result = super()._execute(*arguments, **options)
        return result if result.values is None else replace(result, values=result.values * 1.01)


class ImpreciseEngine(ScipyEngine):
    name = "imprecise"

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        return ImprecisePlan(network, rows, options)


class ErraticPlan(ScipyPlan):
    """Right at last, but the first run loses a row."""

    def _execute(self, *arguments: Any, **options: Any) -> Activations:
        result = super()._execute(*arguments, **options)
        first, self.seen = not hasattr(self, "seen"), True
        return replace(result, positive=result.positive[1:]) if first else result


class ErraticEngine(ScipyEngine):
    name = "erratic"

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        return ErraticPlan(network, rows, options)


class RoundingEngine(ScipyEngine):
    """Right in float32; in float16 it changes two categories."""

    name = "rounding"
    dtypes = ("float32", "float16")
    changes = True

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        half = options.dtype == "float16"
        plan = (ForgetfulPlan if half and self.changes else ScipyPlan)(network, rows, replace(options, dtype="float32"))
        plan.options = options
        return plan


class CrampedPlan(ScipyPlan):
    """Says that not everything fits."""

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "remark": "features larger than the GPU: 3 row tiles of 70 rows"}


class CrampedEngine(ScipyEngine):
    name = "cramped"

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        return CrampedPlan(network, rows, options)


class HugeEngine(ScipyEngine):
    name = "huge"

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        raise MemoryLimitError("Expected 8 EiB of memory, got less.", needed=2**63, limit=2**30)


class InterruptedEngine(ScipyEngine):
    """As if Ctrl-C were pressed while the network is prepared."""

    name = "interrupted"

    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan:
        raise KeyboardInterrupt


ENGINES = {
    f"{engine.name}": f"{__name__}:{engine.__name__}"
    for engine in (
        ForgetfulEngine,
        ImpreciseEngine,
        ErraticEngine,
        RoundingEngine,
        CrampedEngine,
        HugeEngine,
        InterruptedEngine,
    )
}
