"""Draw what the gate chose over images.

python tools/visualize_gate.py CONFIG CHECKPOINT photo.jpg --out-dir scale_maps
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
from mmseg.apis import inference_model
from rich.progress import track

from msvit_mm.engine.inference import build_gated_model, find_images
from msvit_mm.engine.launch import add_common_arguments, load_config, one_line_errors
from msvit_mm.visualization import draw_scale_map


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('images', help='an image file, or a folder of them')
    parser.add_argument('--out-dir', default='scale_maps', help='folder of the PNG files, one per image')
    parser.add_argument('--device', default='cpu')
    add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with one_line_errors():
        cfg = load_config(args)
        images = find_images(Path(args.images))
        model = build_gated_model(cfg, args.checkpoint, args.device)
    model.cfg = cfg  # mmseg's inference_model takes the pipeline from there

    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for path in track(images, description='drawing'):
        image = cv2.imread(str(path))
        sample = inference_model(model, image)
        height, width = sample.img_shape[:2]
        scale_map = sample.scale_map.data[0].cpu().numpy()
        seen = cv2.cvtColor(cv2.resize(image, (width, height)), cv2.COLOR_BGR2RGB)
        drawn = draw_scale_map(seen, scale_map, sample.coarse_patch_size, model.backbone.patch_size)
        fig, ax = plt.subplots(figsize=(8, 8 * drawn.shape[0] / drawn.shape[1] + 0.5), layout='constrained')
        ax.imshow(drawn)
        ax.set_axis_off()
        ax.set_title(f'{path.name}: coarse ratio {scale_map.mean():.2f}, {sample.num_tokens} tokens')
        fig.savefig(out_dir / f'{path.stem}.png', dpi=120)
        plt.close(fig)
    print(f'{len(images)} scale maps in {out_dir}')


if __name__ == '__main__':
    main()
