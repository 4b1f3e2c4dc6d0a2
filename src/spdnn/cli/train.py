"""`spdnn train`: learn a compact network, or what it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt


def train(
    data: Annotated[
        str,
        typer.Option(
            metavar="auto|mnist|digits|DIR", help="Images: MNIST, synthetic digits, or a folder of IDX files."
        ),
    ] = "auto",
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers of the start.")] = "300,100",
    radix: Annotated[
        int,
        typer.Option(
            min=0, metavar="LAYERS", help="Start from so many layers of the challenge's 1024-neuron RadiX-Net."
        ),
    ] = 0,
    method: Annotated[
        str,
        typer.Option(
            help="fssl, dense, magnitude, lasso, flops, shuffled, judged, residual, swapped, scratch or torch-pruning."
        ),
    ] = "fssl",
    remove: Annotated[
        float | None, typer.Option(help="Share of the weights to remove, as in 0.976.", show_default="0.976")
    ] = None,
    structured: Annotated[
        bool, typer.Option("--structured", help="Whole neurons and inputs only: dense inside.")
    ] = False,
    latency: Annotated[
        float | None, typer.Option(help="Instead: the share of the dense network's time to reach, as in 0.1.")
    ] = None,
    density: Annotated[
        str,
        typer.Option(
            metavar="SHARE|auto",
            help="Share of weights between what a latency target leaves: 1 for no zeros, auto: as time favours.",
        ),
    ] = "1",
    tile: Annotated[
        str,
        typer.Option(metavar="OUTxIN", help="What goes at once inside: outputs x inputs, as in 2x1; 1x1: one weight."),
    ] = "1x1",
    timed: Annotated[
        bool,
        typer.Option("--timed", help="Choose neurons and inputs by their time on the target, not by their weights."),
    ] = False,
    target_device: Annotated[str, typer.Option(help="Where time counts: cpu or cuda.")] = "cpu",
    target_batch: Annotated[int, typer.Option(min=1, help="For how many rows at a time it counts.")] = 1,
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    rate: Annotated[float, typer.Option(help="Adam's learning rate, at its highest.")] = 2e-3,
    augment: Annotated[
        float, typer.Option(min=0.0, help="How much images are moved and bent; 0 for not at all.")
    ] = 0.5,
    distill: Annotated[float, typer.Option(min=0.0, max=1.0, help="Weight of the teachers' answers.")] = 0.0,
    teachers: Annotated[int, typer.Option(min=1, help="Dense networks to distil from, trained first.")] = 3,
    teacher_hidden: Annotated[str, typer.Option(help="Their hidden widths.", show_default="those of the start")] = "",
    groups: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of what is removed that goes as whole neurons and inputs.")
    ] = 0.5,
    penalty: Annotated[float, typer.Option(min=0.0, help="λ_s + λ_t, the group lasso and the time term.")] = 0.02,
    time: Annotated[float, typer.Option(min=0.0, help="λ_t / λ_s, what of it is the time term.")] = 1.0,
    regrow: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of weights exchanged in stage 2.")] = 0.1,
    round_to: Annotated[int, typer.Option(min=1, help="Keep multiples of this many channels.")] = 1,
    like: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For scratch: the compact network to train anew.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Several as in 1,2,3.")] = "1",
    rows: Annotated[
        int | None, typer.Option(min=100, help="Only the first images of each part.", show_default="all")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu or cuda.")] = "cpu",
    threads: opt.Threads = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where models and states are kept.")] = Path("runs"),
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over instead of going on where it stopped.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write model.onnx.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the record (several: a list) instead of a table.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the record in benchmarks/results/MACHINE/.")] = False,
    machine: Annotated[
        str | None, typer.Option(help="Name of this machine's folder.", show_default="from the hardware")
    ] = None,
) -> int:
    """Learn a compact network: train, prune, fine-tune, cut, test, time.

    5,000 training images are held out to choose settings by; the test set is looked at once, at the end. Interrupted,
    the same command goes on where it stopped. Each seed gets a folder with model.safetensors and history.json.
    """
    import dataclasses

    from .. import machine as machines
    from .. import record as records
    from ..errors import InputError, UnavailableError
    from . import console

    try:
        import torch
    except ImportError as error:
        raise UnavailableError("Training needs PyTorch: pip install 'spdnn[torch]'.") from error
    from ..fssl import Latency, Schedule, Sparsity, export_onnx
    from ..fssl.training import METHODS, Augmentation, Job, Recipe, load_images, run_job

    if "cuda" in (device, target_device) and not torch.cuda.is_available():
        raise UnavailableError("PyTorch sees no GPU here; use cpu.")
    if threads:
        torch.set_num_threads(threads)
    if latency is not None and (remove is not None or structured):
        raise InputError(
            "Expected --latency or --remove, got both. Of a latency target --density says what zeros it has."
        )
    if timed and latency is not None:
        raise InputError("Expected --timed with --remove; with --latency time chooses, always.")
    if density != "1" and latency is None:
        raise InputError("Expected --density with --latency; a sparsity has --groups.")
    whole = structured or method == "lasso" or (latency is not None and _density(density) in (None, 1.0))
    if _tile(tile) != (1, 1) and whole:
        raise InputError("Expected --tile with zeros inside: --remove without --structured, or a --density below 1.")
    target = (
        Latency(latency, _density(density), _tile(tile))
        if latency is not None
        else Sparsity(0.976 if remove is None else remove, structured, groups, _tile(tile), timed)
    )
    if method in METHODS and not METHODS[method].prunes and method != "torch-pruning":
        target = None
    job = Job(
        method=method,
        hidden=_widths(hidden, "--hidden"),
        radix=radix,
        target=target,
        recipe=Recipe(
            epochs=epochs,
            batch=batch,
            rate=rate,
            distill=distill,
            augmentation=Augmentation().scaled(augment) if augment else None,
        ),
        schedule=Schedule(penalty=penalty, time=time, regrow=regrow),
        device=device,
        target_device=target_device,
        target_batch=target_batch,
        teachers=teachers if distill else 0,
        teacher_hidden=_widths(teacher_hidden, "--teacher-hidden") if teacher_hidden else (),
        round_to=round_to,
        like=None if like is None else str(like),
    )
    images = load_images(data)
    if rows:
        images = images.first(rows)
    found: list[dict[str, Any]] = []
    out = console.stdout()
    for one in opt.parse_numbers(seed, "--seed"):
        mine = dataclasses.replace(job, seed=one)
        folder = output / mine.name(images)
        with console.Stages() as progress:
            outcome = run_job(mine, images, folder, resume=not restart, progress=progress)
        found.append(outcome.record)
        records.write_json(outcome.history, folder / "history.json")
        if onnx:
            export_onnx(outcome.model, folder / "model.onnx", torch.zeros(2, *images.side))
        path = None
        if record:
            place = machines.machine_name("gpu" if target_device == "cuda" else "cpu")
            path = records.results_folder() / (machine or place) / f"{mine.name(images)}.json"
            records.write_json(outcome.record, path)
        if not json:
            _show(out, outcome.record, folder, path)
    if json:
        print(records.to_json(found[0] if len(found) == 1 else found))
    return 0


def _show(out: Any, record: dict[str, Any], folder: Path, path: Path | None) -> None:
    from . import console

    table = console.facts_table()
    table.add_row("network", f"{record['network']} → {record['architecture']}")
    table.add_row(
        "weights", f"{record['weights']:,} of {record['weights_dense']:,} ({record['weights_removed']:.2%} removed)"
    )
    table.add_row("accuracy", f"{record['test_accuracy']:.2f}% (held out {record['held_out_accuracy']:.2f}%)")
    fast, dense = record["latency_ms"] / 1e3, record["latency_dense_ms"] / 1e3
    table.add_row(
        "latency",
        f"{console.seconds(fast)} for {record['batch']} row(s) on {record['device']}, {record['latency_engine']}; "
        f"dense start {console.seconds(dense)} ({console.ratio(dense / fast)})",
    )
    if record.get("priced_by") == "weights":
        table.add_row("chosen by", "weights: measured times foretell no more, measure again on an idle machine")
    table.add_row("training", console.seconds(record["training_seconds"]))
    table.add_row("model", str(folder / "model.safetensors"))
    if path:
        table.add_row("record", str(path))
    out.print(f"[bold]{record['method']}[/], seed {record['seed']}, {record['dataset']}")
    out.print(table)


def _density(text: str) -> float | None:
    from ..errors import InputError

    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise InputError(f"Expected --density as a share or auto, got {text!r}.") from None


def _tile(text: str) -> tuple[int, int]:
    from ..errors import InputError

    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise InputError(f"Expected --tile as outputs x inputs, as in 4x1, got {text!r}.")
    return int(height), int(width)


def _widths(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers above 0 in their order, equal ones too."""
    return tuple(opt.parse_numbers(part, option)[0] for part in text.split(","))
