"""Transforms: a check of labels, and further crops that only the gate sees."""

import logging
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS
from mmseg.datasets.transforms import PackSegInputs
from PIL import Image

DEEP_MODES = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')  # of PIL, more than 8 bits
TURNING_SUFFIXES = ('.jpg', '.jpeg', '.tif', '.tiff', '.webp')
ORIENTATION_TAG = 0x0112
MAX_NAMED = 5  # files that a warning names

LABEL_STEPS = ('LoadAnnotations', 'CheckLabels')  # what a pipeline does without where there are no labels


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Stop at labels that are neither a class nor ignored: metrics drop them in silence, losses fail unclearly.

    Comes right after ``LoadAnnotations``, which applies `reduce_zero_label`. Samples without labels pass unchanged,
    because inferencers remove ``LoadAnnotations`` alone from the test pipeline. Labels in disguise stop as well:
    numbers above 255, which loading wraps; masks of several channels; masks that lie otherwise than the image, which
    loading turns by its EXIF tag; and masks of two classes, 0 and 255, of which the second is ignored. Of an image
    whose pixels are all ignored a warning names the file.

    Args:
        num_classes: Labels 0 to ``num_classes - 1`` are classes; None: any label is, disguises of the files stop.
        ignore_index: Label of pixels that count for nothing.

    Raises:
        ValueError: If `num_classes` is not positive; when called, if ``results['gt_seg_map']``, shape (height, width),
            holds another label or is something else in disguise. The message names the file.

    Example:
        >>> CheckLabels(num_classes=2)(dict(gt_seg_map=np.array([[0, 1, 255]])))['gt_seg_map']
        array([[  0,   1, 255]])
    """

    def __init__(self, num_classes: int | None, ignore_index: int = 255) -> None:
        if num_classes is not None and num_classes < 1:
            raise ValueError(f'num_classes: wanted at least 1, got {num_classes}')
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._named: set[str | None] = set()

    def transform(self, results: dict) -> dict:
        """Return `results` unchanged, or raise."""
        if 'gt_seg_map' not in results:
            return results
        labels, file = results['gt_seg_map'], results.get('seg_map_path')
        if labels.ndim != 2:
            raise ValueError(f'wanted a mask of one channel, got shape {labels.shape} in {file!r}')
        _check_depth(file)
        _check_orientation(results)
        if self.num_classes is not None:
            self._check_numbers(labels, self.num_classes, results)
        return results

    def _check_numbers(self, labels: np.ndarray, num_classes: int, results: dict) -> None:
        file = results.get('seg_map_path')
        ignored = labels == self.ignore_index
        wrong = ~ignored & ((labels < 0) | (labels >= num_classes))
        if wrong.any():
            raise ValueError(
                f'wanted labels in [0, {num_classes - 1}] or {self.ignore_index}, '
                f'got {np.unique(labels[wrong]).tolist()} in {file!r}'
            )
        if ignored.all():
            self._warn_of_ignored(file)
        elif self._looks_binary(labels, ignored) and not (results.get('reduce_zero_label') or results.get('label_map')):
            raise ValueError(
                f'wanted labels in [0, {num_classes - 1}], got 0 and {self.ignore_index} alone, which counts for '
                f'nothing, in {file!r}; if it is a binary mask, divide it by 255'
            )

    def _looks_binary(self, labels: np.ndarray, ignored: np.ndarray) -> bool:
        return bool(
            self.num_classes in (1, 2) and self.ignore_index == 255 and ignored.any() and not labels[~ignored].any()
        )

    def _warn_of_ignored(self, file: str | None) -> None:
        if file not in self._named and len(self._named) < MAX_NAMED:
            self._named.add(file)
            message = f'CheckLabels: all pixels are ignored in {file!r}: the image teaches and tests nothing.'
            print_log(message, logger='current', level=logging.WARNING)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'


def _is_local(file: str | None) -> bool:
    return file is not None and '://' not in str(file) and Path(file).is_file()


def _check_depth(file: str | None) -> None:
    """Check that a mask of more than 8 bits has no number that loading, which keeps 8, would wrap.

    Raises:
        ValueError: If it has.
    """
    if file is None or not _is_local(file):
        return
    with Image.open(file) as mask:
        largest = int(np.max(np.asarray(mask))) if mask.mode in DEEP_MODES else 0
    if largest > 255:
        raise ValueError(f'wanted labels up to 255, which loading keeps, got {largest} in {file!r}')


def _check_orientation(results: dict) -> None:
    """Check that mask and image lie alike: loading turns an image by its EXIF tag, and not the mask.

    Raises:
        ValueError: If they do not, or their shapes do not tell.
    """
    labels, file = results['gt_seg_map'], results.get('seg_map_path')
    shapes = [results[name] for name in ('ori_shape', 'img_shape') if name in results]
    shapes += [results['img'].shape] if 'img' in results else []
    sizes = [tuple(shape[:2]) for shape in shapes]
    if sizes and labels.shape not in sizes:
        hint = ' (turned by its EXIF tag?)' if labels.shape[::-1] in sizes else ''
        raise ValueError(f'wanted a mask of the size of its image{hint}, {sizes[0]}, got {labels.shape} in {file!r}')
    image = results.get('img_path')
    if sizes and image is not None and _is_local(image) and str(image).lower().endswith(TURNING_SUFFIXES):
        with Image.open(image) as photo:
            tag = photo.getexif().get(ORIENTATION_TAG, 1)
        if tag in (2, 3, 4) or (tag > 4 and labels.shape[0] == labels.shape[1]):
            raise ValueError(
                f'wanted an image that no EXIF tag turns, got orientation {tag} in {image!r}: loading turns it, and '
                f'not its mask {file!r}; turn both and remove the tag'
            )


@TRANSFORMS.register_module()
class GateCrops(BaseTransform):
    """Take further random crops of the image, without labels, for the gate alone.

    A gate is cheap, and its loss compares distributions over the batch: more images make it sharper. Comes before
    ``RandomCrop``; each crop is flipped horizontally half of the time. Smaller images are padded with zeros below and
    to the right. Adds ``results['gate_crops']``, uint8, shape (num_crops, height, width, channels), channels as in the
    image.

    Args:
        num_crops: Crops per image, at least 1.
        crop_size: (height, width) in pixels.

    Raises:
        ValueError: If an argument is out of its range; when called, if the image is not uint8.

    Example:
        >>> results = GateCrops(num_crops=2, crop_size=(8, 16))(dict(img=np.zeros((20, 20, 3), np.uint8)))
        >>> results['gate_crops'].shape
        (2, 8, 16, 3)
    """

    def __init__(self, num_crops: int, crop_size: tuple[int, int]) -> None:
        if num_crops < 1:
            raise ValueError(f'num_crops: wanted at least 1, got {num_crops}')
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ValueError(f'crop_size: wanted (height, width), each at least 1, got {crop_size}')
        self.num_crops = num_crops
        self.crop_size = tuple(crop_size)

    def transform(self, results: dict) -> dict:
        """Add ``results['gate_crops']``."""
        img = results['img']
        if img.dtype != np.uint8:
            raise ValueError(f'GateCrops: wanted an image of uint8, got {img.dtype}; leave normalisation to the model')
        height, width = self.crop_size
        img = img[..., None] if img.ndim == 2 else img
        crops = np.zeros((self.num_crops, height, width, img.shape[2]), np.uint8)
        for target in crops:
            top = np.random.randint(max(img.shape[0] - height, 0) + 1)
            left = np.random.randint(max(img.shape[1] - width, 0) + 1)
            crop = img[top : top + height, left : left + width]
            if np.random.random() < 0.5:
                crop = crop[:, ::-1]
            target[: crop.shape[0], : crop.shape[1]] = crop
        results['gate_crops'] = crops
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_crops={self.num_crops}, crop_size={self.crop_size})'


@TRANSFORMS.register_module()
class PackGatedSegInputs(PackSegInputs):
    """``PackSegInputs`` that also packs the gate's crops.

    Adds ``data_sample.gate_crops``, a uint8 tensor of shape (num_crops, 3, height, width), not normalised, that moves
    with ``data_sample.to(device)``. Arguments are those of :class:`mmseg.datasets.transforms.PackSegInputs`.

    Raises:
        ValueError: When called, if there are no crops.

    Example:
        >>> results = dict(img=np.zeros((8, 8, 3), np.uint8), gate_crops=np.zeros((2, 4, 4, 3), np.uint8))
        >>> PackGatedSegInputs()(results)['data_samples'].gate_crops.shape
        torch.Size([2, 3, 4, 4])
    """

    def transform(self, results: dict) -> dict:
        """Pack inputs, labels, meta information and the gate's crops."""
        if 'gate_crops' not in results:
            raise ValueError(f"wanted results['gate_crops'] of an earlier GateCrops, got the keys {sorted(results)}")
        packed = super().transform(results)
        # (num_crops, H, W, 3) -> (num_crops, 3, H, W)
        crops = torch.from_numpy(results['gate_crops']).permute(0, 3, 1, 2).contiguous()
        packed['data_samples'].set_field(crops, 'gate_crops')
        return packed
