"""Pictures of a command, and the names of the files that it writes for many images."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from ..checkpoints import check_new


def png_bytes(figure: Figure, dpi: int) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format='png')
    return content.getvalue()


def image_bytes(image: np.ndarray) -> bytes:
    """A grey or RGB image, uint8, as the content of a PNG file."""
    return cv2.imencode('.png', image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def check_continued(folder: Path, names: Sequence[str], overwrite: bool, inputs: Sequence[str | None]) -> None:
    """Check the outputs of a command that continues its record: beside one, the other files are its own and go.

    Args:
        names: Of the record, then of the others.

    Raises:
        ValueError: If something else is in the way.
    """
    record, *others = (folder / name for name in names)
    check_new([record], overwrite=True, inputs=inputs)
    check_new(others, overwrite or record.exists(), inputs)


def unique_names(images: Sequence[Path], reserved: Iterable[str] = ()) -> list[str]:
    """A name for each image, without a suffix, no two alike: its stem, or as much of its path as tells it from others.

    Args:
        images: Different files.
        reserved: Names that no image may have.

    Raises:
        ValueError: If two names are alike all the same.

    Example:
        >>> unique_names([Path('a/x.jpg'), Path('b/x.jpg'), Path('b/x.png'), Path('b/y.png')])
        ['a-x.jpg', 'b-x.jpg', 'b-x.png', 'y']
    """
    counts = Counter(path.stem.lower() for path in images) + Counter(reserved)  # some file systems know one case
    common = len(Path(*_common_parts(images)).parts)
    names = [path.stem if counts[path.stem.lower()] == 1 else '-'.join(path.parts[common:]) for path in images]
    again = [name for name, count in Counter([*map(str.lower, names), *reserved]).items() if count > 1]
    if again:
        raise ValueError(f"images: wanted names that differ, got '{again[0]}' twice; rename one of them.")
    return names


def _common_parts(paths: Sequence[Path]) -> list[str]:
    parts = []
    for level in zip(*(path.parent.parts for path in paths), strict=False):
        if len(set(level)) > 1:
            break
        parts.append(level[0])
    return parts
