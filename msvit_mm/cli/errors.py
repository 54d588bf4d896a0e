"""Bad input ends a command in one line."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the error of a check, by default a ValueError, into one line on stderr and exit status 1."""
    kinds = kinds or (ValueError,)
    try:
        yield
    except kinds as error:
        raise SystemExit(f'error: {error}') from None
