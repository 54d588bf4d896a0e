"""One trained network under its own gate and under stand-ins of its cost or fixed ones: scores, and what each chose."""

from collections.abc import Callable

import cv2
import torch
from matplotlib.figure import Figure
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..models import GatedModel
from ..visualization import draw_panel

LEARNED = 'learned'


def evaluate_gates(runner: Runner, announce: Callable[[str], object] = str) -> dict[str, dict[str, float]]:
    """Metrics under every gate, by the gate's name, the network's own first.

    Args:
        runner: Of one process; its ``test`` is called once for each gate.
        announce: Is told the name of each gate before its turn.
    """
    announce(LEARNED)
    rows = {LEARNED: _plain_numbers(runner.test())}
    for name, gate in runner.model.backbone.stand_ins(rows[LEARNED]).items():
        announce(name)
        with runner.model.backbone.configured(gate=gate):
            rows[name] = _plain_numbers(runner.test())
    return rows


def draw_gates(runner: Runner, rows: dict[str, dict[str, float]], num_images: int) -> Figure:
    """A row of pictures per gate that chooses: what it chose on test images, evenly spaced, and their labels.

    Args:
        rows: What :func:`evaluate_gates` returned.
    """
    dataset = runner.test_dataloader.dataset
    samples = [dataset[i * len(dataset) // num_images] for i in range(num_images)]
    stand_ins = runner.model.backbone.stand_ins(rows[LEARNED])
    gates = {LEARNED: None} | {name: x for name, x in stand_ins.items() if not x['type'].startswith('Fixed')}
    size = 3 * num_images, 3 * len(gates) + 3
    fig = Figure(figsize=size)
    axes = fig.subplots(len(gates) + 1, num_images, squeeze=False)
    palette = torch.tensor([*dataset.metainfo['palette'], *[[0, 0, 0]] * 256])
    for column, sample in zip(axes.T, samples, strict=True):
        image = cv2.cvtColor(sample['inputs'].permute(1, 2, 0).numpy(), cv2.COLOR_BGR2RGB)
        for ax, (name, gate) in zip(column, gates.items(), strict=False):
            with runner.model.backbone.configured(gate=gate):
                prediction = _predict(runner.model, sample)
            drawn, cost = draw_panel(image, prediction)
            blocks = sum(prediction.get('node_depths', {}).values())  # the end of the scale of depths; RGB has none
            ax.imshow(drawn, vmin=0, vmax=blocks)
            ax.set_title(f'{name}, {cost}', fontsize=9)
        labels = sample['data_samples'].gt_sem_seg.data[0].long()
        column[-1].imshow(palette[labels].numpy().astype('uint8'), interpolation='nearest')
        column[-1].set_title('labels', fontsize=9)
    for ax in axes.flat:
        ax.set_axis_off()
    fig.tight_layout()
    return fig


def _plain_numbers(metrics: dict) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


@torch.no_grad()
def _predict(model: GatedModel, sample: dict) -> BaseDataElement:
    batch = model.data_preprocessor({'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]})
    return model.predict(**batch)[0]
