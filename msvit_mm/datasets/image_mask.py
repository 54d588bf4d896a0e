"""Own data: a folder of images and a folder of masks, paired by the names of their files."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset
from PIL import Image

from .configs import entries_below

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
MASK_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.gif')  # those that keep every value as it is
MASK_MODES = ('P', 'L', '1')  # palette, grey, black and white
SPLITS = ('train', 'val', None)
NUM_LOOKED_AT = 8


@DATASETS.register_module()
class ImageMaskDataset(BaseSegDataset):
    """Images and masks in two folders, whatever their suffixes: ``images/a.jpg`` belongs to ``masks/a.png``.

    A mask has one channel, grey or of a palette, whose values are the numbers of the classes; 255 counts for nothing.
    One folder serves training and validation, too: every ``val_every``-th image, in the order of the names, is for
    validation.

    Args:
        split: 'train', 'val', or None for all images.
        val_every: Of how many images one is for validation, at least 2.
        foreground_255: Masks are binary and say 255 for their foreground, class 1; then no pixel is ignored.
        mask_ending: What the name of a mask has beside that of its image: '_mask' for ``a.jpg`` and ``a_mask.png``.
        kwargs: Further arguments of :class:`mmseg.datasets.BaseSegDataset`: `data_root`, ``data_prefix=
            dict(img_path=..., seg_map_path=...)``, ``metainfo=dict(classes=..., palette=...)``, `pipeline`.

    Raises:
        FileNotFoundError: At construction, if a folder is missing or empty, or an image or a mask has no partner.
        ValueError: If an argument is out of its range, a mask is lossy or in colours, or two classes have masks
            of 0 and 255 without `foreground_255`.
    """

    METAINFO: ClassVar[dict] = dict()

    def __init__(
        self,
        split: str | None = None,
        val_every: int = 5,
        foreground_255: bool = False,
        mask_ending: str = '',
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'split: wanted one of {SPLITS}, got {split!r}')
        if split and val_every < 2:
            raise ValueError(f'val_every: wanted at least 2, got {val_every}')
        self.split, self.val_every = split, val_every
        self.foreground_255, self.mask_ending = foreground_255, mask_ending
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Pair images with masks by name, and check that all are there and can be read as labels."""
        pairs = find_pairs(self.data_prefix['img_path'], self.data_prefix.get('seg_map_path'), self.mask_ending)
        if self.data_prefix.get('seg_map_path'):
            masks = [mask for _, mask in pairs if mask is not None]
            check_mask_mode(masks[0])
            if not self.foreground_255 and len(self.metainfo.get('classes', ())) == 2:
                check_not_binary_255(masks)
        if self.split:
            pairs = [pair for i, pair in enumerate(pairs) if (i % self.val_every == 0) == (self.split == 'val')]
        if not pairs:
            raise FileNotFoundError(
                f'ImageMaskDataset: wanted images for {self.split!r} in {self.data_prefix["img_path"]!r}, got none'
            )
        label_map = {255: 1} if self.foreground_255 else self.label_map
        shared = dict(label_map=label_map, reduce_zero_label=self.reduce_zero_label)
        infos = [dict(img_path=str(image), **shared, seg_fields=[]) for image, _ in pairs]
        for info, (_, mask) in zip(infos, pairs, strict=True):
            info.update({} if mask is None else dict(seg_map_path=str(mask)))
        return infos


def find_pairs(
    image_folder: str | Path, mask_folder: str | Path | None, mask_ending: str = ''
) -> list[tuple[Path, Path | None]]:
    """Images and masks of the same name below two folders, in the order of the names; masks are None without a folder.

    Args:
        mask_ending: What the name of a mask has beside that of its image.

    Raises:
        FileNotFoundError: If a folder is missing or empty, or files have no partner; all of these in one message.
        ValueError: If two files of a folder have one name, or masks have a lossy suffix.
    """
    images = _by_name(Path(image_folder), IMAGE_SUFFIXES, 'images')
    if mask_folder is None:
        return [(path, None) for path in images.values()]
    masks = _by_name(Path(mask_folder), MASK_SUFFIXES, 'masks')
    wanted = {f'{name}{mask_ending}': name for name in images}
    without_mask = [images[name].name for full, name in wanted.items() if full not in masks]
    without_image = [path.name for full, path in masks.items() if full not in wanted]
    if without_mask or without_image:
        ending = f' and mask_ending {mask_ending!r}' if mask_ending else ''
        raise FileNotFoundError(
            f'ImageMaskDataset: wanted a mask for each image by the same name{ending}, '
            f'got {len(without_mask)} images without a mask{_some(without_mask)} '
            f'and {len(without_image)} masks without an image{_some(without_image)}; '
            f'folders {str(image_folder)!r} and {str(mask_folder)!r}'
        )
    return [(images[name], masks[full]) for full, name in wanted.items()]


def check_mask_mode(path: Path) -> None:
    """Check that a mask has one channel of numbers up to 255.

    Raises:
        ValueError: If it is in colours, or deeper.
    """
    with Image.open(path) as mask:
        mode = mask.mode
    if mode not in MASK_MODES:
        raise ValueError(
            f"mask '{path}': wanted one channel with the numbers of the classes (grey, palette), got an image of mode "
            f'{mode}; docs/own_data.md has lines that turn colours into numbers'
        )


def check_not_binary_255(paths: Sequence[Path]) -> None:
    """Check that masks of two classes are not of 0 and 255, which would mean "background" and "ignored".

    Raises:
        ValueError: If the first ones are.
    """
    if is_binary_255(paths[:NUM_LOOKED_AT]):
        raise ValueError(
            f"masks such as '{paths[0]}': wanted numbers of classes, got 0 and 255, of which 255 counts for nothing; "
            'if it is the foreground, set foreground_255=True'
        )


def is_binary_255(paths: Iterable[Path]) -> bool:
    """Whether masks hold 255 and beside it at most 0."""
    values = {value for path in paths for value in mask_values(path).tolist()}
    return 255 in values and values <= {0, 255}


def mask_values(path: Path) -> np.ndarray:
    """The values that a mask of one channel holds, in order."""
    with Image.open(path) as mask:
        return np.unique(np.asarray(mask).astype(np.uint8))


def _by_name(folder: Path, suffixes: Sequence[str], what: str) -> dict[str, Path]:
    """Files below a folder by their path in it without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f'ImageMaskDataset: wanted {what} in {str(folder)!r}, got no such folder')
    files = [path for path in sorted(entries_below(folder)) if path.is_file() and not path.name.startswith('.')]
    found = [path for path in files if path.suffix.lower() in suffixes]
    lossy = [path.name for path in files if what == 'masks' and path.suffix.lower() in ('.jpg', '.jpeg', '.webp')]
    if lossy:
        raise ValueError(
            f'masks: wanted files that keep their values ({", ".join(MASK_SUFFIXES)}) in {str(folder)!r}, '
            f'got {len(lossy)} of {", ".join(sorted({Path(name).suffix for name in lossy}))}{_some(lossy)}; '
            'save them anew as .png'
        )
    if not found:
        got = Counter(path.suffix or 'no suffix' for path in files)
        raise FileNotFoundError(
            f'ImageMaskDataset: wanted {what} ({", ".join(suffixes)}) in {str(folder)!r}, '
            f'got {", ".join(f"{n} of {suffix}" for suffix, n in got.items()) or "an empty folder"}'
        )
    names = [path.relative_to(folder).with_suffix('').as_posix() for path in found]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f'{what}: wanted one file of a name in {str(folder)!r}, got several{_some(twice)}')
    return dict(zip(names, found, strict=True))


def _some(names: Iterable[str], count: int = 3) -> str:
    """The first names in brackets, or nothing."""
    names = list(names)
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return f' ({", ".join(names[:count])}{more})' if names else ''
