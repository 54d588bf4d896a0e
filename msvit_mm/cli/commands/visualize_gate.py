"""Draw what the gate chose over images: scale maps of MSViT, or routes and depths of a token router.

msvit visualize-gate CONFIG CHECKPOINT photo.jpg --out-dir scale_maps

Routes are saved beside each picture as .npz, and summary.png shows the grid with its mean activity and all costs.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmseg.apis import inference_model
from rich.progress import track

from ...visualization import draw_choices, draw_summary, route_maps
from ..config import add_config_arguments, load_config
from ..errors import one_line_errors
from ..images import find_images
from ..models import build_gated_model


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint')
    parser.add_argument('images', help='an image file, or a folder of them')
    parser.add_argument('--out-dir', default='scale_maps', help='folder of the PNG files, one per image')
    parser.add_argument('--device', default='cpu')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        cfg = load_config(args.config, args.cfg_options)
        images = find_images(Path(args.images))
        model = build_gated_model(cfg, args.checkpoint, args.device)
    model.cfg = cfg  # mmseg's inference_model takes the pipeline from there

    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    samples = []
    for path in track(images, description='drawing'):
        image: Any = cv2.imread(str(path))
        sample = inference_model(model, image)
        samples.append(sample)
        if maps := route_maps(sample):
            arrays: dict[str, Any] = dict(cost_ratio=sample.cost_ratio, **maps)
            np.savez_compressed(out_dir / f'{path.stem}.npz', **arrays)
        fig = draw_choices(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), sample, path.name)
        fig.savefig(out_dir / f'{path.stem}.png', dpi=120)
    summary = draw_summary(samples)
    if summary is not None:
        summary.savefig(out_dir / 'summary.png', dpi=120)
    print(f'{len(images)} {"scale maps" if summary is None else "routes"} in {out_dir}')
