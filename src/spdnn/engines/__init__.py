"""One file or folder per engine; `spdnn.engine` finds them by name."""
