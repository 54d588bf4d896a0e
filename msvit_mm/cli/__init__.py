"""The command line: ``msvit train CONFIG``, ``python -m msvit_mm.cli``, and what the commands share."""
