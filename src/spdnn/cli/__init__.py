"""The command line, `spdnn`: it reads arguments, calls the library and prints. Errors are one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exits with 0, 1 for errors and failed verifications, 2 for usage, 130 for Ctrl-C."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name; that of the process by default); returns the exit status."""
    from typer import Abort
    from typer.main import get_command

    from ..errors import SpdnnError
    from .app import USAGE_ERRORS, app

    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            status = get_command(app)(
                args=None if arguments is None else list(arguments), prog_name="spdnn", standalone_mode=False
            )
        status = status if isinstance(status, int) else 0
    except (KeyboardInterrupt, Abort):
        status = 130
    except BrokenPipeError:
        _close_quietly()
        return 1
    except USAGE_ERRORS as error:
        context = getattr(error, "ctx", None)
        hint = f" (`{context.command_path} --help` lists what there is)" if context else ""
        return _fail(f"{error.format_message().rstrip('.')}.{hint}", error.exit_code)
    except SpdnnError as error:
        return _fail(str(error), 1)
    except MemoryError as error:
        return _fail(f"There is not enough memory: {str(error) or 'no more could be had'}", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    if status == 130:
        print("interrupted", file=sys.stderr)
    return status


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _close_quietly() -> None:
    """Nobody reads on: keep Python from complaining when it flushes at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
