"""Evaluate one trained network under its own gate and under stand-ins of its cost or fixed ones, in one table.

python tools/compare_gates.py CONFIG CHECKPOINT --out-dir work_dirs/gates
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from rich.console import Console
from rich.table import Table

from msvit_mm.checkpoints import use_safe_loader
from msvit_mm.engine.inference import describe_run
from msvit_mm.engine.launch import add_common_arguments, build_test_runner, load_config, one_line_errors
from msvit_mm.models import gate_replaced
from msvit_mm.visualization import depth_map, draw_scale_map, route_maps

COLUMNS = {
    'mIoU': ('mIoU', '.2f'),
    'boundary/mIoU': ('boundary mIoU', '.2f'),
    'coarse_ratio': ('coarse ratio', '.3f'),
    'route_ratio': ('cost / PVTv2', '.3f'),
    'auc': ('AUC', '.3f'),
    'num_tokens': ('tokens', '.1f'),
    'backbone_gmacs': ('backbone GMACs', '.4f'),
    'gmacs': ('GMACs', '.4f'),
}


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--out-dir', help='folder of gates.json and gates.png; default <work dir>/gates')
    parser.add_argument('--num-images', type=int, default=5, help='images in the picture')
    add_common_arguments(parser)
    return parser.parse_args()


def plain_numbers(metrics: dict) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def evaluate(runner: Runner, console: Console) -> dict[str, dict[str, float]]:
    """Metrics under every gate, by the gate's name."""
    console.print('learned gate ...')
    rows = {'learned': plain_numbers(runner.test())}
    for name, gate in runner.model.choices.stand_in_gates(rows['learned']).items():
        console.print(f'{name} ...')
        with gate_replaced(runner.model, gate):
            rows[name] = plain_numbers(runner.test())
    return rows


def format_table(rows: dict[str, dict[str, float]]) -> Table:
    columns = {key: column for key, column in COLUMNS.items() if key in rows['learned']}
    table = Table('gate', *(title for title, _ in columns.values()), title='One network under several gates')
    for name, metrics in rows.items():
        table.add_row(name, *(format(metrics[key], spec) for key, (_, spec) in columns.items()))
    return table


def draw_sample(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, str]:
    """The scale map of a prediction over its RGB image, or the blocks that its pixels passed; and its cost in words."""
    if 'scale_map' in sample:
        scale_map = sample.scale_map.data[0].cpu().numpy()
        drawn = draw_scale_map(image, scale_map, sample.coarse_patch_size, sample.patch_size)
        return drawn, f'coarse ratio {scale_map.mean():.2f}'
    depths = depth_map(route_maps(sample), sample.node_depths, image.shape[:2])
    return depths, f'{sample.backbone_gmacs / sample.reference_gmacs:.2f} of PVTv2, depth {depths.mean():.1f}'


def draw_gates(runner: Runner, rows: dict, num_images: int, path: Path) -> None:
    """A row of pictures per gate that chooses: what it chose on the first test images, and their labels."""
    model, dataset = runner.model, runner.test_dataloader.dataset
    samples = [dataset[i * len(dataset) // num_images] for i in range(num_images)]
    gates = model.choices.stand_in_gates(rows['learned'])
    names = ['learned', *(name for name, gate in gates.items() if not gate['type'].startswith('Fixed'))]
    fig, axes = plt.subplots(len(names) + 1, num_images, figsize=(3 * num_images, 3 * len(names) + 3), squeeze=False)
    palette = torch.tensor([*dataset.metainfo['palette'], *[[0, 0, 0]] * 256])
    for column, sample in enumerate(samples):
        image = cv2.cvtColor(sample['inputs'].permute(1, 2, 0).numpy(), cv2.COLOR_BGR2RGB)
        batch = model.data_preprocessor({'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]})
        for row, name in enumerate(names):
            with torch.no_grad():
                if name == 'learned':
                    (prediction,) = model.predict(**batch)
                else:
                    with gate_replaced(model, gates[name]):
                        (prediction,) = model.predict(**batch)
            drawn, cost = draw_sample(image, prediction)
            blocks = sum(prediction.get('node_depths', {}).values())  # the end of the scale of depths; RGB has none
            axes[row, column].imshow(drawn, vmin=0, vmax=blocks)
            axes[row, column].set_title(f'{name}, {cost}', fontsize=9)
        labels = sample['data_samples'].gt_sem_seg.data[0].long()
        axes[-1, column].imshow(palette[labels].numpy().astype('uint8'), interpolation='nearest')
        axes[-1, column].set_title('labels', fontsize=9)
    for ax in axes.flat:
        ax.set_axis_off()
    fig.tight_layout()
    fig.savefig(path, dpi=100)
    plt.close(fig)


def main() -> None:
    args = parse_args()
    use_safe_loader()
    with one_line_errors():
        cfg = load_config(args)
        runner = build_test_runner(cfg, args.checkpoint)

    console = Console()
    rows = evaluate(runner, console)
    out_dir = Path(args.out_dir or Path(cfg.work_dir) / 'gates')
    out_dir.mkdir(parents=True, exist_ok=True)
    device = str(next(runner.model.parameters()).device)
    record = dict(gates=rows, **describe_run(args, cfg.randomness['seed'], device))
    (out_dir / 'gates.json').write_text(json.dumps(record, indent=2))
    draw_gates(runner, rows, args.num_images, out_dir / 'gates.png')
    console.print(format_table(rows))
    console.print(
        f'1 MAC = 1 FLOP, as the papers count. Table: {out_dir / "gates.json"}, picture: {out_dir / "gates.png"}'
    )


if __name__ == '__main__':
    main()
