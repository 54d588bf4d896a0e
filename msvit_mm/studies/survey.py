"""What a segmentation data set holds: shares of the classes, labels that are none, sizes of the images."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RARE = 0.001


class Survey(NamedTuple):
    """What was counted over images with labels.

    Attributes:
        pixels: Number of pixels of each value 0 to 255, shape (256,).
        images: Number of images with each value, shape (256,).
        sizes: How many images have which (height, width).
        mismatched: Names of images whose labels have another size.
        outside: Name of the first image with each value that is neither a class nor ignored.
    """

    pixels: np.ndarray
    images: np.ndarray
    sizes: Counter
    mismatched: list[str]
    outside: dict[int, str]

    @property
    def ignored_share(self) -> float:
        """Share of all pixels that is 255, which counts for nothing."""
        return float(self.pixels[255] / max(self.pixels.sum(), 1))

    def class_rows(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each class: its share of the pixels that are of a class, and the images that have it."""
        labelled = max(self.pixels[: len(classes)].sum(), 1)
        shares = self.pixels[: len(classes)] / labelled
        return [
            dict(number=i, name=name, share=float(shares[i]), num_images=int(self.images[i]))
            for i, name in enumerate(classes)
        ]

    def warnings(self, classes: Sequence[str]) -> list[str]:
        """What is probably not as it should be, one line each."""
        found = [
            f'labels {value} in {name}: wanted 0 to {len(classes) - 1}, or 255'
            for value, name in sorted(self.outside.items())
        ]
        if self.mismatched:
            found.append(f'{len(self.mismatched)} images whose mask has another size, the first {self.mismatched[0]}')
        if self.ignored_share > 0.5:
            found.append(f'{self.ignored_share:.1%} of the pixels are ignored (255): wanted less than half')
        if 255 in np.flatnonzero(self.pixels) and self.pixels[1:255].sum() == 0:
            found.append('masks hold 0 and 255 alone: if 255 is the foreground, set foreground_255=True')
        for row in self.class_rows(classes):
            if row['share'] == 0:
                found.append(f'class {row["name"]!r}: no pixel')
            elif row['share'] < RARE:
                found.append(f'class {row["name"]!r}: {row["share"]:.2%} of the pixels; a class weight may help')
            elif row['share'] > 0.99 and len(classes) > 1:
                found.append(f'class {row["name"]!r}: {row["share"]:.1%} of the pixels, all others together the rest')
        return found


def survey(samples: Iterable[dict], num_classes: int) -> Survey:
    """Count over loaded samples of a data set.

    Args:
        samples: With ``img`` (H, W, 3), ``gt_seg_map`` (H, W) and ``img_path``.
        num_classes: Labels 0 to ``num_classes - 1`` are classes, 255 is ignored.
    """
    pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
    sizes: Counter[tuple[int, int]] = Counter()
    mismatched: list[str] = []
    outside: dict[int, str] = {}
    for sample in samples:
        labels, name = sample['gt_seg_map'], Path(sample['img_path']).name
        size = sample['img'].shape[:2]
        sizes[size] += 1
        if labels.shape != size:
            mismatched.append(name)
        counts = np.bincount(labels.ravel(), minlength=256)
        pixels += counts
        images += counts > 0
        for value in np.flatnonzero(counts[num_classes:255]) + num_classes:
            outside.setdefault(int(value), name)
    return Survey(pixels, images, sizes, mismatched, outside)
