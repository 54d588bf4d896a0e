"""Bad input ends a command in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK = 'MSVIT_TRACEBACK'  # an environment variable: set, what others' code raises is not shortened


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the error of a check, by default a ValueError, into one line on stderr and exit status 1."""
    kinds = kinds or (ValueError,)
    try:
        yield
    except kinds as error:
        raise SystemExit(f'error: {error}') from None


@contextmanager
def foreign_errors(where: str) -> Iterator[None]:
    """Turn whatever a config file or a constructor of a host raises at the user's words into a ValueError of one line.

    A ValueError stays as it is: it is of a check. For what begins with the config alone: past the first iteration an
    error is no word's, and its traceback is wanted.

    Args:
        where: Begins the message.

    Raises:
        ValueError: Instead of any other error.
    """
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        said = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)  # a KeyError's is quoted
        line = ' '.join(said.split())[:300]
        raise ValueError(
            f'{where}: {type(error).__name__}: {line or "without a message"} ({TRACEBACK}=1 shows where).'
        ) from error
