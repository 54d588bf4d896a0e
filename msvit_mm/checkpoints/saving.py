"""Write the outputs of a command: none that is in the way, and all of them or none."""

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch


def check_new(paths: Iterable[Path], overwrite: bool) -> None:
    """Check that files may be written.

    Raises:
        ValueError: If a folder, or a file without ``overwrite``, is in the way.
    """
    for path in paths:
        if path.is_dir() or (path.exists() and not overwrite):
            raise ValueError(f"output '{path}': wanted a new file, got an existing one; --overwrite replaces a file.")


def checkpoint_bytes(checkpoint: dict[str, Any]) -> bytes:
    """The content of a checkpoint file; it does not depend on the file's name."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files, and their folders, beside their final names first: an interruption leaves older files as they were.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_files({Path(folder) / 'new' / 'a.txt': b'text'})
        ...     (Path(folder) / 'new' / 'a.txt').read_bytes()
        b'text'
    """
    partials = {path.with_name(f'{path.name}.part'): path for path in contents}
    try:
        for partial, path in partials.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(contents[path])
        for partial, path in partials.items():
            os.replace(partial, path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
