"""One image through a trained segmentor: what it says, what its gate chose, and what that cost."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..backbones.base import image_size
from ..datasets import LABEL_STEPS
from ..datasets.configs import datasets_of, type_name
from ..datasets.named import named_errors
from ..models import GatedEncoderDecoder
from ..visualization import draw_panel, draw_segmentation
from .benchmark import decode
from .timing import clock_of, interleave

Photo = str | Path | np.ndarray  # a file, or RGB, uint8, (H, W, 3)


class Prediction(NamedTuple):
    """A prediction for one image.

    Attributes:
        image: RGB, uint8, shape (H, W, 3).
        sample: The model's data sample: ``pred_sem_seg``, ``num_tokens``, ``gmacs``, maps of the choices.
        time_ms: Of the network, without loading and drawing.
    """

    image: np.ndarray
    sample: BaseDataElement
    time_ms: float

    @property
    def labels(self) -> np.ndarray:
        """Classes, shape (H, W)."""
        return self.sample.pred_sem_seg.data[0].cpu().numpy()


class Panels(NamedTuple):
    """What a page shows of one image.

    Attributes:
        segmentation: The classes' colours over the image, RGB, uint8.
        choices: What the gate chose, RGB, uint8.
        words: What it chose, in words.
        num_tokens: Active patch tokens.
        gmacs, dense_gmacs: Multiply-adds in 1e9 of the whole network and of the dense one.
        time_ms, dense_time_ms: Median times of both, measured in turns.
    """

    segmentation: np.ndarray
    choices: np.ndarray
    words: str
    num_tokens: float
    gmacs: float
    dense_gmacs: float
    time_ms: float
    dense_time_ms: float


def prepare(model: GatedEncoderDecoder, photo: Photo) -> dict[str, Any]:
    """A batch of one image as the test pipeline of ``model.cfg`` prepares it, without labels.

    Files go through the pipeline's own loader, arrays around it: those are RGB and become BGR, as loaders give it.

    Raises:
        ValueError: If an array is no RGB image.
    """
    pipelines = [datasets_of(model.cfg, split)[0].get('pipeline') for split in ('test', 'val')]
    if not any(pipelines):
        raise ValueError('config: wanted a pipeline of its test or validation data to prepare images by, got none')
    steps = [step for step in next(filter(None, pipelines)) if type_name(step) not in LABEL_STEPS]
    if isinstance(photo, np.ndarray):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ValueError(f'image: wanted RGB of uint8 and shape (H, W, 3), got {photo.dtype} {photo.shape}')
        size = photo.shape[:2]
        steps = [step for step in steps if not type_name(step).startswith('LoadImage')]
        inputs = dict(img=np.ascontiguousarray(photo[..., ::-1]), img_shape=size, ori_shape=size, img_path='array')
    else:
        inputs = dict(img_path=str(photo))
    with named_errors(inputs):
        return pseudo_collate([Compose(steps)(inputs)])


def budget_range(model: GatedEncoderDecoder, photo: Photo) -> tuple[int, int]:
    """The smallest and the largest token budget for an image, per sliding window if there are several.

    Raises:
        ValueError: If the network knows no budget.
    """
    return token_range(model, image_size(prepare(model, photo)['inputs'][0]))


def token_range(model: GatedEncoderDecoder, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest and the largest token budget for an image of (height, width) pixels as the model sees it.

    Raises:
        ValueError: If the network knows no budget.
    """
    if not hasattr(model.backbone, 'token_budget'):
        raise ValueError(f'budget: wanted a network that knows one (MSViT), got {type(model.backbone).__name__}')
    backbone: Any = model.backbone
    tilings = [backbone.tile(window) for window in model.window_sizes(size)]
    return max(tiling.num_regions for tiling in tilings), min(tiling.num_cells for tiling in tilings)


def check_budget(model: GatedEncoderDecoder, photo: Photo, budget: float | None) -> None:
    """Check that an image can be predicted under this budget.

    Raises:
        ValueError: If not.
    """
    if budget is None:
        return
    low, high = budget_range(model, photo)
    if not low <= budget <= high:
        name = 'an image' if isinstance(photo, np.ndarray) else f"'{photo}'"
        raise ValueError(f'budget: wanted {low} (all coarse) to {high} (all fine) tokens for {name}, got {budget:g}')


@torch.no_grad()
def predict_image(model: GatedEncoderDecoder, photo: Photo, budget: float | None = None) -> Prediction:
    """Predict one image, under a token budget if there is one.

    Args:
        model: A gated segmentor in evaluation mode, with its config as ``model.cfg``.
        photo: An image file, or an RGB array.
        budget: Active patch tokens of the image, or of each sliding window.

    Raises:
        ValueError: If the budget cannot be kept, or the image is too large for the memory.
    """
    check_budget(model, photo, budget)
    batch = prepare(model, photo)
    image = photo if isinstance(photo, np.ndarray) else read_rgb(photo)
    samples: list[BaseDataElement] = []
    measure, _ = clock_of(next(model.parameters()).device.type, 1)
    with model.backbone.configured(**_budget_words(budget)):
        time_ms = measure(lambda: samples.extend(model.test_step(batch)))
    return Prediction(image, samples[0], time_ms)


def read_rgb(path: str | Path) -> np.ndarray:
    """An image file as RGB, uint8, shape (H, W, 3), turned as its EXIF says.

    Raises:
        ValueError: If it is no image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"image '{path}': wanted a readable image file, got none")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def draw_prediction(prediction: Prediction, palette: list) -> tuple[np.ndarray, np.ndarray, str]:
    """The segmentation over the image, the gate's choices over it, and the latter in words."""
    segmentation = draw_segmentation(prediction.image, prediction.labels, palette)
    return segmentation, *draw_panel(prediction.image, prediction.sample)


@torch.no_grad()
def predict_panels(model: GatedEncoderDecoder, image: Photo, budget: float | None = None, repeats: int = 3) -> Panels:
    """All that a page shows of one image under one budget, beside the dense network with the same weights.

    Args:
        model: As for :func:`predict_image`, with the classes' colours in ``model.dataset_meta['palette']``.
        image: An image file, or an RGB array.
        budget: Active patch tokens; None leaves the choice to the gate.
        repeats: Rounds of timing that count.

    Raises:
        ValueError: If the budget cannot be kept, or the head works on tokens: then there is no dense network to time.
    """
    if model.backbone.out_type != 'featmap':
        raise ValueError(f'panels: wanted a network of feature maps, got out_type={model.backbone.out_type!r}')
    prediction = predict_image(model, image, budget)
    sample = prediction.sample
    data = model.data_preprocessor(prepare(model, image))
    inputs, metas = data['inputs'], [x.metainfo for x in data['data_samples']]
    dense = dense_inference(model, inputs)
    measure, _ = clock_of(inputs.device.type, 1)
    with model.backbone.configured(**_budget_words(budget)):
        calls = dict(gated=lambda: model.inference_gated(inputs, metas), dense=dense)
        times = interleave(calls, measure, repeats, warmup=1)
    segmentation, choices, words = draw_prediction(prediction, model.dataset_meta['palette'])
    head_gmacs = sample.gmacs - sample.backbone_gmacs
    return Panels(
        segmentation,
        choices,
        words,
        num_tokens=float(sample.num_tokens),
        gmacs=sample.gmacs,
        dense_gmacs=sample.reference_gmacs + head_gmacs,
        time_ms=float(np.median(times['gated'])),
        dense_time_ms=float(np.median(times['dense'])),
    )


def dense_inference(model: GatedEncoderDecoder, inputs: Tensor) -> Any:
    """A call that runs the dense network with a gated segmentor's weights over all windows of images (B, 3, H, W)."""
    windows = model.windows(image_size(inputs))
    twins = {size: model.backbone.dense_twin(size) for size in set(model.window_sizes(image_size(inputs)))}
    for twin in twins.values():
        twin.eval()  # hosts return nothing from it

    def run() -> list[Tensor]:
        return [
            decode(model, size, twins[size](inputs[:, :, top : top + size[0], left : left + size[1]]))
            for top, left, bottom, right in windows
            for size in [(bottom - top, right - left)]
        ]

    return run


def _budget_words(budget: float | None) -> dict[str, Any]:
    return {} if budget is None else dict(token_budget=budget)
