"""What the command-line tools share, and the modules that run as ``python -m msvit_mm.cli.NAME``."""
