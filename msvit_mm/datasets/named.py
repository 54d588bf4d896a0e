"""Samples that cannot be read name their files: decoders speak of a buffer, and workers of a traceback."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import cv2

UNREADABLE = (OSError, ValueError, AssertionError, cv2.error)


class SampleError(ValueError):
    """A sample cannot be read. The message is one line, also when it comes out of a data loader's worker."""

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition('SampleError: ')[2])


@contextlib.contextmanager
def named_errors(info: Mapping[str, Any]) -> Iterator[None]:
    """Name the files of a sample where reading it fails.

    Args:
        info: What its data set knows of it: ``img_path`` and perhaps ``seg_map_path``.

    Raises:
        SampleError: Instead of what decoders, checks and the file system raise.

    Example:
        >>> with named_errors(dict(img_path='a.png')):
        ...     raise OSError('image file is truncated')
        Traceback (most recent call last):
        msvit_mm.datasets.named.SampleError: data: wanted to read 'a.png', got OSError: image file is truncated
    """
    try:
        yield
    except UNREADABLE as error:
        files = [str(info[name]) for name in ('img_path', 'seg_map_path') if info.get(name)]
        reason = ' '.join(str(error).split())
        what = ' and '.join(map(repr, files)) or 'a sample'
        raise SampleError(f'data: wanted to read {what}, got {type(error).__name__}: {reason}') from error


class NamedSamples:
    """A data set whose samples name their files where they cannot be read; else it is what it wraps."""

    def __init__(self, dataset: Any) -> None:
        vars(self).update(dataset=dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with named_errors(self._info(index)):
            return self.dataset[index]

    def _info(self, index: int) -> Mapping[str, Any]:
        find = getattr(self.dataset, 'get_data_info', None)
        info = find(index) if find else {}
        return info if isinstance(info, Mapping) else {}
