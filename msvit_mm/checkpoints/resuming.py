"""Which checkpoint of a folder a training goes on from."""

import re
from pathlib import Path

from .loading import check_resumable, load_checkpoint_safely


def find_resumable(folder: str | Path) -> Path | None:
    """The newest checkpoint of a folder that can be resumed, none if the folder holds no checkpoint of a training.

    That is the one which ``last_checkpoint`` names, as long as it lies in the folder and is complete; else the newest
    complete one, whatever the file says.

    Raises:
        ValueError: If there are checkpoints and none is complete.
    """
    errors = []
    for path in _candidates(Path(folder)):
        try:
            checkpoint = load_checkpoint_safely(path)
        except ValueError as error:
            errors.append(error)
            continue
        try:
            check_resumable(checkpoint)
            return path
        except ValueError:  # weights alone are nothing to resume, and nothing damaged
            continue
    if errors:
        raise ValueError(f'--resume: {errors[0]} No other checkpoint in {folder} can be resumed.')
    return None


def _candidates(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the likeliest first: the one last named, then from the newest to the oldest."""
    files = [path for path in folder.glob('*.pth') if path.is_file() and not path.name.startswith('best_')]
    files.sort(key=lambda path: (path.stat().st_mtime_ns, _step(path)), reverse=True)
    named = folder / _named(folder / 'last_checkpoint')
    return sorted(files, key=lambda path: path != named)


def _named(path: Path) -> str:
    """File name in a ``last_checkpoint``, whatever folder it speaks of; '' if it says nothing."""
    try:
        text = path.read_text(errors='replace').replace('\0', '').strip()
    except OSError:
        return ''
    return text.replace('\\', '/').rpartition('/')[2]


def _step(path: Path) -> int:
    number = re.search(r'(\d+)\.pth$', path.name)
    return int(number[1]) if number else -1
