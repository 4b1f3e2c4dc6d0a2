"""`python -m spdnn`, the same as the command `spdnn`."""

from .cli import main

main()
