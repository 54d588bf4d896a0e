"""Write the outputs of a command: none that is in the way, and all of them or none.

What stands in the way is found before the work: :func:`check_new` tries whether a file can be made where it shall be.
"""

import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .loading import HASH_IN_NAME

PART = '.part'
NAME_LENGTH = 255  # bytes, of the common file systems


def check_new(paths: Iterable[Path], overwrite: bool, inputs: Iterable[str | os.PathLike | None] = ()) -> None:
    """Check that files may and can be written.

    Args:
        paths: Of the files. Folders above them may be absent.
        overwrite: Whether a file that is there may go.
        inputs: Files that are read, which never go.

    Raises:
        ValueError: If two are one, a folder, an input, or a file without ``overwrite`` is in the way, or no file can be
            made there.
    """
    read, seen = [Path(path) for path in inputs if path], set()
    for path in map(Path, paths):
        _check_place(path)
        if path in seen:
            raise ValueError(f"output '{path}': wanted files that differ in name, got two of this one.")
        seen.add(path)
        if any(_is_same(path, other) for other in read):
            raise ValueError(f"output '{path}': wanted another file than the inputs, got one of them.")
        if path.is_dir() or (path.exists() and not overwrite):
            raise ValueError(f"output '{path}': wanted a new file, got an existing one; --overwrite replaces a file.")
        _try_to_write(path)


def check_checkpoint_name(path: Path) -> None:
    """Check that a checkpoint of this name will be read as what is written.

    Raises:
        ValueError: If its suffix says that it is of another kind, or its name ends in what is read as a hash.
    """
    if path.suffix in ('.safetensors', '.json'):
        raise ValueError(f"output '{path}': wanted the name of a torch file, such as {path.stem}.pth.")
    if hashed := re.search(HASH_IN_NAME, path.name):
        raise ValueError(f"output '{path}': wanted a name that does not end in what is read as a hash, '-{hashed[1]}'.")


def check_folder(folder: Path, overwrite: bool, inputs: Iterable[str | os.PathLike | None] = ()) -> None:
    """Check that a folder may and can be filled by others than :func:`write_files`.

    Args:
        folder: May be absent.
        overwrite: Whether it may hold something already.
        inputs: Folders that are read, which nothing is written into.

    Raises:
        ValueError: If it is an input, no folder, not empty without ``overwrite``, or no file can be made in it.
    """
    folder = Path(folder)
    _check_place(folder / 'x')
    if any(_is_same(folder, Path(other)) for other in inputs if other):
        raise ValueError(f"output '{folder}': wanted another folder than those of the inputs, got one of them.")
    if folder.is_dir() and not overwrite and any(folder.iterdir()):
        raise ValueError(f"output '{folder}': wanted a new or empty folder, got files in it; --overwrite allows them.")
    _try_to_write(folder / 'x')


def checkpoint_bytes(checkpoint: dict[str, Any]) -> bytes:
    """The content of a checkpoint file; it does not depend on the file's name."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files, and their folders, beside their final names first: an interruption leaves older files as they were.

    Raises:
        ValueError: If the disk is full or will not take them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_files({Path(folder) / 'new' / 'a.txt': b'text'})
        ...     (Path(folder) / 'new' / 'a.txt').read_bytes()
        b'text'
    """
    partials = {path.with_name(f'{path.name}{PART}'): path for path in contents}
    try:
        for partial, path in partials.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_through(partial, contents[path])
        for partial, path in partials.items():
            os.replace(partial, path)
    except OSError as error:
        where = ', '.join(f"'{path}'" for path in contents)
        raise ValueError(f'output {where}: wanted to write it, got {error.strerror or error}.') from None
    finally:
        for partial in partials:
            _forget(partial)


def _write_through(path: Path, content: bytes) -> None:
    with path.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _forget(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:
        return  # the folder has gone, or will not say


def _check_place(path: Path) -> None:
    for part in path.parts:
        if len(f'{part}{PART}'.encode()) > NAME_LENGTH:
            raise ValueError(f"output '{part[:20]}...': wanted a name of at most {NAME_LENGTH} bytes, got {len(part)}.")
    for above in path.parents:
        if above.exists() and not above.is_dir():
            raise ValueError(f"output '{path}': wanted a folder above it, got the file '{above}'.")


def _try_to_write(path: Path) -> None:
    """Make and remove a file in the nearest folder that is there."""
    folder = next(above for above in path.absolute().parents if above.is_dir())
    probe = folder / f'.msvit-{os.getpid()}{PART}'
    try:
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(0, 'a read-only file')
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"output '{path}': wanted to write in '{folder}', got {error.strerror}.") from None


def _is_same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))
