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
from ..visualization import WRONG, add_legend, draw_errors, draw_panel, legend_of

LEARNED = 'learned'
MAX_CLASSES = 20  # of a legend that can be read


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
    """Two rows of pictures per image, a column for each contender: what its gate chose, and what it then got wrong.

    Args:
        contenders: By name; of segmentors.
        dataset: Test data, from which the images are taken, evenly spaced.
        num_images: How many images.
    """
    samples = [dataset[i * len(dataset) // num_images] for i in range(num_images)]
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
        legend |= _draw_image(rows, sample, contenders.values(), dataset.metainfo['palette'])
    classes = dict(zip(dataset.metainfo['classes'], dataset.metainfo['palette'], strict=True))
    add_legend(fig, legend | {'wrong': WRONG} | (classes if len(classes) <= MAX_CLASSES else {}))
    return fig


def _draw_image(
    rows: np.ndarray, sample: dict, contenders: Iterable[Contender], palette: Sequence[Sequence[int]]
) -> Mapping[str, Any]:
    """Fill the two rows of axes of an image, and return the colours of the choices by their names."""
    (photo, *choices), (truth, *errors) = rows
    image = cv2.cvtColor(sample['inputs'].permute(1, 2, 0).numpy(), cv2.COLOR_BGR2RGB)
    labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
    shown = cv2.resize(image, labels.shape[::-1])  # labels keep the size of the file
    photo.imshow(image)
    photo.text(0, -2, 'photo', fontsize=8)
    truth.imshow(draw_errors(shown, labels, labels, palette))
    truth.text(0, -2, 'labels', fontsize=8)
    legend: Mapping[str, Any] = {}
    for above, below, (model, gate, _) in zip(choices, errors, contenders, strict=True):
        with model.backbone.configured(gate=gate):
            prediction = _predict(model, sample)
        drawn, _ = draw_panel(image, prediction)
        blocks = sum(prediction.get('node_depths', {}).values())  # the end of the scale of depths; RGB has none
        above.imshow(drawn, vmin=0, vmax=blocks)
        predicted = prediction.pred_sem_seg.data[0].cpu().numpy()
        below.imshow(draw_errors(shown, predicted, labels, palette))
        wrong = np.mean((predicted != labels)[labels != 255])
        below.text(0, -2, f'{prediction.num_tokens:.0f} tokens, {wrong:.0%} wrong', fontsize=8)
        legend = {**legend, **legend_of(prediction)}
    return legend


def _title(name: str, metrics: Mapping[str, float]) -> str:
    score = f'{metrics["mIoU"]:.1f} mIoU, ' if 'mIoU' in metrics else ''
    return f'{name}\n{score}{metrics["gmacs"]:.3g} GMACs'


@torch.no_grad()
def _predict(model: GatedModel, sample: dict) -> BaseDataElement:
    batch = model.data_preprocessor({'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]})
    return model.predict(**batch)[0]
