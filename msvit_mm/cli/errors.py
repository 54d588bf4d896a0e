"""Bad input ends a command in one line."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(kind: type[Exception] = ValueError) -> Iterator[None]:
    """Turn the error of a check into one line on stderr and exit status 1."""
    try:
        yield
    except kind as error:
        raise SystemExit(f'error: {error}') from None
