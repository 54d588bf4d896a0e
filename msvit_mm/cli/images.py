"""Images for a command: files, data sets, and inputs of one size."""

import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS

from ..datasets.configs import datasets_of, entries_below, leaf_datasets
from ..datasets.image_mask import IMAGE_SUFFIXES, MASK_SUFFIXES, NUM_LOOKED_AT, is_binary_255
from ..datasets.prepared import PreparedImages, space_evenly
from ..models import GatedModel


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the folders of the datasets exist and hold something; some hosts fail on them late or obscurely.

    Args:
        splits: Of 'train', 'val', 'test'.

    Raises:
        ValueError: If a folder is missing or empty.
    """
    for split in splits:
        for path in data_folders(cfg, split):
            if not (path.is_dir() and any(path.iterdir())):
                got = 'an empty folder' if path.is_dir() else 'no such folder'
                raise ValueError(
                    f"{split} data: wanted files in '{path}', got {got}; "
                    f'link the dataset there or set {split}_dataloader.dataset.data_root by --cfg-options.'
                )
        for line in left_out(cfg, split) + without_classes(cfg, split):
            print(line, file=sys.stderr)


def left_out(cfg: Config, split: str) -> list[str]:
    """A line on each folder some of whose images a data set leaves out, since their names end otherwise."""
    lines = []
    for dataset in datasets_of(cfg, split):
        prefix, suffix = dataset.get('data_prefix', {}), dataset.get('img_suffix')
        folder = prefix.get('img_path') if isinstance(prefix, dict) else None
        if not folder or not suffix or dataset.get('ann_file') or '://' in str(folder):
            continue
        path = Path(dataset.get('data_root') or '', folder)
        images = [file for file in entries_below(path) if file.suffix.lower() in IMAGE_SUFFIXES]
        others = sorted(file.name for file in images if not (file.name.endswith(suffix) and file.is_file()))
        if others:
            lines.append(
                f"{split} data: {len(others)} of {len(images)} images in '{path}' are no files that end in "
                f"'{suffix}' and are left out, such as {others[0]}"
            )
    return lines


def without_classes(cfg: Config, split: str) -> list[str]:
    """A line on each folder of masks that hold 0 and 255 alone: 255 counts for nothing, so nothing could be learned."""
    lines = []
    for dataset in datasets_of(cfg, split):
        prefix = dataset.get('data_prefix', {})
        folder = prefix.get('seg_map_path') if isinstance(prefix, dict) else None
        if not folder or dataset.get('foreground_255') or '://' in str(folder):
            continue
        path = Path(dataset.get('data_root') or '', folder)
        suffixes = [dataset['seg_map_suffix']] if 'seg_map_suffix' in dataset else MASK_SUFFIXES
        found = (file for file in entries_below(path) if file.name.endswith(tuple(suffixes)))
        masks = list(islice(found, NUM_LOOKED_AT))
        with suppress(OSError):  # a mask that cannot be read is named when it is loaded
            if masks and is_binary_255(masks):
                lines.append(
                    f"{split} data: masks such as '{masks[0]}' hold 0 and 255 alone, of which 255 counts for nothing; "
                    'if it is the foreground, use ImageMaskDataset with foreground_255=True'
                )
    return lines


def data_folders(cfg: Config, split: str) -> list[Path]:
    """Folders of images and labels of a split, below all wrappers."""
    folders = []
    for dataset in datasets_of(cfg, split):
        prefixes = dataset.get('data_prefix', {})
        for folder in prefixes.values() if isinstance(prefixes, dict) else ():
            if '://' not in str(folder):
                folders.append(Path(dataset.get('data_root') or '', folder))
    return folders


def find_images(path: Path) -> list[Path]:
    """The image file itself, or the image files below a folder.

    Raises:
        ValueError: If there are none, or one is no image.
    """
    found = [path] if path.is_file() else sorted(p for p in entries_below(path) if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(
            f"images '{path}': wanted an image file or a folder with {', '.join(IMAGE_SUFFIXES)}, got none."
        )
    for image in found:
        if not cv2.haveImageReader(str(image)):
            raise ValueError(f"image '{image}': wanted a readable image file, got none.")
    return found


def load_images(
    dataset: dict, num_images: int | None = None, folder: str | None = None, with_labels: bool = False
) -> PreparedImages:
    """Images evenly spaced over a data set or a folder.

    Args:
        dataset: Config of the data set; of several below a wrapper the first has the pipeline.
        num_images: How many; all by default, and all if there are fewer.
        folder: Take the image files below this folder instead of those of the data set.
        with_labels: Whether the data set's labels come along.

    Raises:
        ValueError: If there is no image.
    """
    leaves = leaf_datasets(dataset)
    if folder:
        files = find_images(Path(folder))
        infos = [dict(img_path=str(files[i])) for i in space_evenly(len(files), num_images)]
    else:
        places = [(leaf, i) for leaf in map(DATASETS.build, leaves) for i in range(len(leaf))]
        infos = [places[i][0].get_data_info(places[i][1]) for i in space_evenly(len(places), num_images)]
    return PreparedImages(infos, leaves[0]['pipeline'], with_labels)


def load_split(
    cfg: Config, split: str, num_images: int | None = None, folder: str | None = None, with_labels: bool = False
) -> PreparedImages:
    """Images of a folder or, evenly spaced, of a split (train, val or test), as the test pipeline prepares them.

    Raises:
        ValueError: If there is none, or the config lacks the data set.
    """
    splits = ('test',) if folder else (split, 'test')
    if missing := [name for name in splits if not cfg.get(f'{name}_dataloader')]:
        raise ValueError(f"config '{cfg.filename}': wanted data sets {splits}, got no {missing[0]}_dataloader.")
    if not folder:
        check_data(cfg, split)
    leaves = [{}] if folder else datasets_of(cfg, split)
    pipeline = datasets_of(cfg, 'test')[0]['pipeline']
    dataset = dict(datasets=[dict(leaf, pipeline=pipeline) for leaf in leaves])
    return load_images(dataset, num_images, folder, with_labels)


def load_inputs(
    cfg: Config, model: GatedModel, count: int, size: tuple[int, int], folder: str | None = None
) -> tuple[torch.Tensor, str]:
    """Distinct inputs of one size for a backbone to be timed on, and what they are.

    Args:
        size: (height, width) in pixels, to which images are resized.
        folder: Images instead of the config's test images. Where neither is there, smoothed noise.

    Returns:
        Normalised, shape (count, 3, H, W), and words for the record.

    Raises:
        ValueError: If there are fewer images than ``count``, or the folder has none.
    """
    try:
        dataset = load_split(cfg, 'test', count, folder)
    except ValueError:
        if folder:
            raise
        noise = torch.randn(count, 3, size[0] // 8 + 1, size[1] // 8 + 1)
        return F.interpolate(noise, size=size, mode='bilinear'), 'smoothed noise: the data set is absent'
    if len(dataset) < count:
        raise ValueError(f'images: wanted {count} distinct ones for the largest batch, got {len(dataset)}.')
    inputs = [model.data_preprocessor(batch)['inputs'] for batch in dataset]
    resized = [F.interpolate(image, size=size, mode='bilinear', antialias=True) for image in inputs]
    return torch.cat(resized), folder or 'test images of the config'
