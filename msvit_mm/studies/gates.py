"""One trained network under its own gate and under stand-ins of its cost or fixed ones: scores, and what each chose."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..models import GatedModel
from ..visualization import WRONG, add_legend, draw_errors, draw_objects, draw_panel, legend_of, pale

LEARNED = 'learned'
MAX_CLASSES = 20  # of a legend that can be read
MIN_SCORE = 0.5  # of an object that is drawn


class Contender(NamedTuple):
    """A network under one gate, and its metrics on the test data.

    Attributes:
        model: The network.
        gate: Config of the gate in place of its own, or None.
        metrics: By name.
    """

    model: GatedModel
    gate: Any
    metrics: dict[str, float]


def evaluate_gates(runner: Runner, announce: Callable[[str], object] = str) -> dict[str, Contender]:
    """Evaluate a network under every gate: by the gate's name, the network's own first.

    Args:
        runner: Of one process; its ``test`` is called once for each gate.
        announce: Is told the name of each gate before its turn.
    """
    announce(LEARNED)
    own = Contender(runner.model, None, evaluate_own(runner))
    contenders = {LEARNED: own}
    for name, gate in runner.model.backbone.stand_ins(own.metrics).items():
        announce(name)
        with runner.model.backbone.configured(gate=gate):
            contenders[name] = Contender(runner.model, gate, evaluate_own(runner))
    return contenders


def evaluate_own(runner: Runner) -> dict[str, float]:
    """Metrics of a network under the gate that it has now."""
    return {name: float(value) for name, value in runner.test().items()}


def draw_gates(contenders: Mapping[str, Contender], dataset: Any, num_images: int) -> Figure:
    """Two rows of pictures per image, a column for each contender: what its gate chose, and what it then predicted.

    Of segmentors the classes are pale and red is wrong; of detectors the objects that it is sure of are drawn.

    Args:
        contenders: By name; all segmentors or all detectors.
        dataset: Test data, from which the images are taken, evenly spaced.
        num_images: How many images.
    """
    samples = [dataset[i * len(dataset) // num_images] for i in range(num_images)]
    names, palette = dataset.metainfo['classes'], dataset.metainfo['palette']
    height, width = samples[0]['inputs'].shape[1:]
    columns = len(contenders) + 1
    fig = Figure(figsize=(2 * columns, 4 * height / width * num_images + 1.2), layout='constrained')
    axes = fig.subplots(2 * num_images, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (name, contender) in zip(axes[0, 1:], contenders.items(), strict=True):
        ax.set_title(_title(name, contender.metrics), fontsize=9)
    legend: dict[str, Any] = {}
    for rows, sample in zip(axes.reshape(num_images, 2, columns), samples, strict=True):
        legend |= _draw_image(rows, sample, contenders.values(), palette)
    colours = pale(palette) if 'gt_sem_seg' in samples[0]['data_samples'] else palette
    classes = dict(zip(names, colours, strict=False))  # COCO's has 80 colours
    add_legend(fig, legend | (classes if len(classes) <= MAX_CLASSES else {}))
    return fig


def _draw_image(
    rows: np.ndarray, sample: dict, contenders: Iterable[Contender], palette: Sequence[Sequence[int]]
) -> Mapping[str, Any]:
    """Fill the two rows of axes of an image, and return the colours by their names."""
    (photo, *choices), (below_photo, *results) = rows
    image, truth = cv2.cvtColor(sample['inputs'].permute(1, 2, 0).numpy(), cv2.COLOR_BGR2RGB), sample['data_samples']
    draw, legend = (_segmentation, {'wrong': WRONG}) if 'gt_sem_seg' in truth else (_objects, {})
    photo.imshow(image)
    photo.text(0, -2, 'photo', fontsize=8)
    below_photo.imshow(draw(image, truth, None, palette)[0])
    below_photo.text(0, -2, 'labels', fontsize=8)
    for above, below, (model, gate, _) in zip(choices, results, contenders, strict=True):
        with model.backbone.configured(gate=gate):
            prediction = _predict(model, sample)
        drawn, _ = draw_panel(image, prediction)
        blocks = sum(prediction.get('node_depths', {}).values())  # the end of the scale of depths; RGB has none
        above.imshow(drawn, vmin=0, vmax=blocks)
        result, words = draw(image, truth, prediction, palette)
        below.imshow(result)
        below.text(0, -2, f'{prediction.num_tokens:.0f} tokens, {words}', fontsize=8)
        legend = {**legend_of(prediction), **legend}
    return legend


def _segmentation(
    image: np.ndarray, truth: BaseDataElement, prediction: BaseDataElement | None, palette: Sequence[Sequence[int]]
) -> tuple[np.ndarray, str]:
    """The labels or, in the size of their file, the prediction with red where it is wrong; and how much that is."""
    labels = truth.gt_sem_seg.data[0].numpy()
    predicted = labels if prediction is None else prediction.pred_sem_seg.data[0].cpu().numpy()
    wrong = np.mean((predicted != labels)[labels != 255])
    return draw_errors(cv2.resize(image, labels.shape[::-1]), predicted, labels, palette), f'{wrong:.0%} wrong'


def _objects(
    image: np.ndarray, truth: BaseDataElement, prediction: BaseDataElement | None, palette: Sequence[Sequence[int]]
) -> tuple[np.ndarray, str]:
    """The labelled objects or the predicted ones that are likely, in the size of the file; and how many these are."""
    if prediction is None:
        found = truth.gt_instances
        masks = found.masks.to_ndarray() if 'masks' in found else None
    else:
        found = prediction.pred_instances[prediction.pred_instances.scores >= MIN_SCORE].cpu()
        masks = found.masks.numpy() if 'masks' in found else None
    shown = cv2.resize(image, truth.ori_shape[::-1])
    drawn = draw_objects(shown, found.bboxes.numpy(), found.labels.numpy(), palette, masks)
    return drawn, f'{len(found)} objects'


def _title(name: str, metrics: Mapping[str, float]) -> str:
    scores = dict(mIoU='mIoU', **{'coco/segm_mAP': 'mask AP', 'coco/bbox_mAP': 'box AP'})
    found = [f'{metrics[key]:.3g} {word}, ' for key, word in scores.items() if key in metrics][:1]
    return f'{name}\n{"".join(found)}{metrics.get("gmacs", metrics["backbone_gmacs"]):.3g} GMACs'


@torch.no_grad()
def _predict(model: GatedModel, sample: dict) -> BaseDataElement:
    batch = model.data_preprocessor({'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]})
    return model.predict(**batch)[0]
