"""Image files and frames of videos, one after another, as RGB."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from .images import find_images
from .outputs import unique_names

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def is_video(path: Path) -> bool:
    """Whether a path names a video, by its suffix."""
    return path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES


def find_photos(path: Path, max_frames: int | None = None) -> Iterator[tuple[str, Path | np.ndarray]]:
    """Image files below a path by name, or the frames of a video, as RGB, by name and number.

    Args:
        path: An image, a folder of them, or a video.
        max_frames: Of a video, evenly from its beginning; default all.

    Raises:
        ValueError: At once, if there is nothing to read, or two names are alike.
    """
    if is_video(path):
        capture = cv2.VideoCapture(str(path))
        found, first = capture.read()
        if not found:
            raise ValueError(f"video '{path}': wanted frames that cv2 reads, got none.")
        return _frames(capture, path.stem, first, max_frames)
    files = find_images(path)
    return iter(list(zip(unique_names(files), files, strict=True)))


def _frames(
    capture: cv2.VideoCapture, name: str, frame: np.ndarray, max_frames: int | None
) -> Iterator[tuple[str, np.ndarray]]:
    number, found = 0, True
    while found and (max_frames is None or number < max_frames):
        yield f'{name}_{number:05d}', cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        number += 1
        found, frame = capture.read()
    capture.release()
