"""One module for each command, with ``parse_args(argv)`` and ``main(argv)``; its docstring gives a call."""
