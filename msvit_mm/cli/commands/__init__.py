"""One module for each command, with ``main(args)``; its docstring gives a call."""
