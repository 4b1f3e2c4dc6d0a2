"""A picture of what every layer of a run cost."""

from __future__ import annotations

from pathlib import Path

from ..challenge import Run
from ..errors import InputError
from ..figures import save, subplots


def plot_profile(run: Run, path: str | Path) -> Path:
    """Live and computed rows by layer, below them each layer's time, and GB/s where the engine knows the bytes.

    Raises InputError for a run without a profile, UnavailableError without Matplotlib.
    """
    profile = run.profile
    if not profile:
        raise InputError(f"Expected a profile to draw; {run.reason or 'this run has none'}.")
    layers = [layer.layer + 1 for layer in profile]
    times = [layer.seconds for layer in profile]
    count = 1 + (None not in times)
    figure, axes = subplots(count, (8, 3.2 * count))
    variant = f" ({run.options.variant})" if run.options.variant else ""
    figure.suptitle(f"{run.instance.name}, {run.rows:,} rows, {run.choice.engine.name}{variant}")
    above = axes[0]
    for name, rows in (("live after", [p.live for p in profile]), ("computed", [p.computed for p in profile])):
        above.step(layers, rows, where="mid", label=name)
    above.set_yscale("symlog", linthresh=1)
    above.set_ylim(bottom=0)
    above.set_ylabel("rows")
    above.legend()
    if count > 1:
        below = axes[1]
        below.step(layers, [1e3 * (time or 0.0) for time in times], where="mid", color="C2")
        below.set_yscale("log")
        below.set_ylabel("ms a layer", color="C2")
        speeds = [p.nbytes / p.seconds / 1e9 for p in profile if p.nbytes is not None and p.seconds]
        if len(speeds) == len(profile):
            twin = below.twinx()
            twin.plot(layers, speeds, color="C3", linewidth=0.8)
            twin.set_ylim(bottom=0)
            twin.set_ylabel("GB/s, rows and weights once", color="C3")
    axes[-1].set_xlabel("layer")
    return save(figure, path)
