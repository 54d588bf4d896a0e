"""Draw what the gate chose over images: scale maps of MSViT, or routes and depths of a token router.

python tools/visualize_gate.py CONFIG CHECKPOINT photo.jpg --out-dir scale_maps

Routes are saved beside each picture as .npz, and summary.png shows the grid with its mean activity and all costs.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
from mmengine.structures import BaseDataElement
from mmseg.apis import inference_model
from rich.progress import track

from msvit_mm.engine.inference import build_gated_model, find_images
from msvit_mm.engine.launch import add_common_arguments, load_config, one_line_errors
from msvit_mm.visualization import draw_route_summary, draw_routes, draw_scale_map, route_maps


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('images', help='an image file, or a folder of them')
    parser.add_argument('--out-dir', default='scale_maps', help='folder of the PNG files, one per image')
    parser.add_argument('--device', default='cpu')
    add_common_arguments(parser)
    return parser.parse_args()


def figure_of_scales(name: str, seen: np.ndarray, sample: BaseDataElement, patch_size: int) -> plt.Figure:
    scale_map = sample.scale_map.data[0].cpu().numpy()
    drawn = draw_scale_map(seen, scale_map, sample.coarse_patch_size, patch_size)
    fig, ax = plt.subplots(figsize=(8, 8 * drawn.shape[0] / drawn.shape[1] + 0.5), layout='constrained')
    ax.imshow(drawn)
    ax.set_axis_off()
    ax.set_title(f'{name}: coarse ratio {scale_map.mean():.2f}, {sample.num_tokens} tokens')
    return fig


def main() -> None:
    args = parse_args()
    with one_line_errors():
        cfg = load_config(args)
        images = find_images(Path(args.images))
        model = build_gated_model(cfg, args.checkpoint, args.device)
    model.cfg = cfg  # mmseg's inference_model takes the pipeline from there

    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    routed = []
    for path in track(images, description='drawing'):
        image = cv2.imread(str(path))
        sample = inference_model(model, image)
        height, width = sample.img_shape[:2]
        seen = cv2.cvtColor(cv2.resize(image, (width, height)), cv2.COLOR_BGR2RGB)
        if 'scale_map' in sample:
            fig = figure_of_scales(path.name, seen, sample, model.backbone.patch_size)
        else:
            maps, ratio = route_maps(sample), sample.backbone_gmacs / sample.reference_gmacs
            np.savez_compressed(out_dir / f'{path.stem}.npz', cost_ratio=ratio, **maps)
            routed.append((maps, ratio))
            fig = draw_routes(seen, maps, sample.node_depths, f'{path.name}: {ratio:.2f} of the cost of PVTv2')
        fig.savefig(out_dir / f'{path.stem}.png', dpi=120)
        plt.close(fig)
    if routed:
        draw_route_summary(*zip(*routed, strict=True)).savefig(out_dir / 'summary.png', dpi=120)
    print(f'{len(images)} {"routes" if routed else "scale maps"} in {out_dir}')


if __name__ == '__main__':
    main()
