"""What the tools that count and time share: a model, images without labels, and what a record says of its run."""

import copy
import platform
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmengine
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope

from ..checkpoints import check_coverage, check_shapes, load_checkpoint_safely
from ..version import __version__
from .launch import check_data

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
LABEL_STEPS = ('LoadAnnotations', 'CheckLabels')


def check_device(device: str) -> None:
    """Check that this machine has the device.

    Raises:
        ValueError: If it has not.
    """
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f"device: wanted '{device}', got a machine without CUDA.")


def build_gated_model(cfg: Config, checkpoint: str | None, device: str) -> torch.nn.Module:
    """Build the config's model in evaluation mode, with the weights of a checkpoint or random ones.

    Raises:
        ValueError: If the device or a model is absent, the backbone has no gate, or the checkpoint does not fit.
    """
    check_device(device)
    if 'model' not in cfg:
        raise ValueError(f"config '{cfg.filename}': wanted a model, got none.")
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    config = copy.deepcopy(cfg.model)  # hosts write into what they build from
    config.setdefault('data_preprocessor', cfg.get('data_preprocessor'))  # beside the model, as the runner takes it
    model = revert_sync_batchnorm(MODELS.build(config))
    if not hasattr(model.backbone, 'forward_gated'):
        got = f'{type(model).__name__} over {type(model.backbone).__name__}'
        raise ValueError(f"config '{cfg.filename}': wanted a model over a gated backbone such as MSViT, got {got}.")
    if checkpoint:
        weights = load_checkpoint_safely(checkpoint)['state_dict']
        check_coverage(model.state_dict(), weights)
        check_shapes(model.state_dict(), weights)
        model.load_state_dict({name.removeprefix('module.'): value for name, value in weights.items()}, strict=False)
    return model.to(device).eval()


def check_regions(model: torch.nn.Module, cfg: Config) -> None:
    """Check that a gated model chooses scales of regions, so that its choices have a threshold and can move.

    Raises:
        ValueError: If it routes tokens.
    """
    if not hasattr(model.backbone, 'coarse_patch_size'):
        got = f'{type(model.backbone).__name__}, which routes tokens'
        raise ValueError(f"config '{cfg.filename}': wanted a gate over regions (MSViT), got {got}.")


def find_images(path: Path) -> list[Path]:
    """The image file itself, or the image files below a folder.

    Raises:
        ValueError: If there are none, or one is no image.
    """
    found = [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"images '{path}': wanted an image file or a folder with {', '.join(SUFFIXES)}, got none.")
    for image in found:
        if not cv2.haveImageReader(str(image)):
            raise ValueError(f"image '{image}': wanted a readable image file, got none.")
    return found


class UnlabelledImages(Sequence):
    """Images as the test pipeline prepares them, without their labels, evenly spaced over a data set or a folder.

    Args:
        dataset: Config of the data set.
        num_images: How many; all by default, and all if there are fewer.
        folder: Take the image files below this folder instead of those of the data set.

    Raises:
        ValueError: If there is no image.
    """

    def __init__(self, dataset: dict, num_images: int | None = None, folder: str | None = None) -> None:
        self.pipeline = Compose([step for step in dataset['pipeline'] if step['type'] not in LABEL_STEPS])
        if folder:
            infos = [dict(img_path=str(path)) for path in find_images(Path(folder))]
        else:
            built = DATASETS.build(dataset)
            infos = [built.get_data_info(i) for i in range(len(built))]
        count = len(infos) if num_images is None else min(num_images, len(infos))
        if count < 1:
            raise ValueError(f'images: wanted at least one, got {count} of {len(infos)}.')
        self.infos = [infos[i * len(infos) // count] for i in range(count)]

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> dict:
        """A batch of this one image, for the model's ``data_preprocessor``."""
        return pseudo_collate([self.pipeline(dict(self.infos[index]))])


def load_split(cfg: Config, split: str, num_images: int | None = None, folder: str | None = None) -> UnlabelledImages:
    """Images of a folder or, evenly spaced, of a split (train, val or test), as the test pipeline prepares them.

    Raises:
        ValueError: If there is none, or the config lacks the data set.
    """
    splits = ('test',) if folder else (split, 'test')
    if missing := [name for name in splits if not cfg.get(f'{name}_dataloader')]:
        raise ValueError(f"config '{cfg.filename}': wanted data sets {splits}, got no {missing[0]}_dataloader.")
    if not folder:
        check_data(cfg, split)
    dataset = {} if folder else cfg[f'{split}_dataloader'].dataset
    while 'dataset' in dataset:  # wrappers such as RepeatDataset
        dataset = dataset['dataset']
    return UnlabelledImages(dict(dataset, pipeline=cfg.test_dataloader.dataset.pipeline), num_images, folder)


def load_inputs(
    cfg: Config, model: torch.nn.Module, count: int, size: tuple[int, int], folder: str | None = None
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


def describe_run(args: Namespace, seed: int, device: str) -> dict:
    """What a record has to say beside its numbers: command, config, checkpoint, seed, device, threads, versions."""
    on_cpu = not device.startswith('cuda')
    return dict(
        config=args.config,
        checkpoint=args.checkpoint,
        options={name: value for name, value in vars(args).items() if name not in ('config', 'checkpoint', 'out')},
        seed=seed,
        device=platform.processor() or platform.machine() if on_cpu else torch.cuda.get_device_name(device),
        threads=torch.get_num_threads(),
        versions=dict(msvit_mm=__version__, torch=torch.__version__, mmengine=mmengine.__version__),
    )
