"""Draw what the gate chose over images: scale maps of MSViT, or routes and depths of a token router.

msvit visualize-gate CONFIG CHECKPOINT photo.jpg --out-dir scale_maps

Routes are saved beside each picture as .npz, and summary.png shows the grid with its mean activity and all costs.
"""

import io
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from rich.progress import track

from ...checkpoints import check_new, use_safe_loader, write_files
from ...models import GatedModel
from ...visualization import draw_choices, draw_summary, route_maps
from ..config import load_config
from ..errors import foreign_errors, one_line_errors
from ..images import find_images, load_split
from ..models import build_gated_model
from ..outputs import png_bytes, unique_names

SUMMARY = 'summary'
HEAVY = ('seg_logits', 'pred_sem_seg', 'pred_instances')  # fields of a prediction that no drawing needs


def name_outputs(images: Sequence[Path], args: Namespace) -> list[Path]:
    """The picture of each image, without its suffix.

    Raises:
        ValueError: If a file is in the way, or the folder is that of the images.
    """
    out_dir, source = Path(args.out_dir), Path(args.images)
    if out_dir.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise ValueError(f"--out-dir: wanted another folder than that of the images, got '{out_dir}'.")
    stems = [out_dir / name for name in unique_names(images, reserved=[SUMMARY])]
    paths = [
        stem.with_name(f'{stem.name}{suffix}') for stem in [*stems, out_dir / SUMMARY] for suffix in ('.png', '.npz')
    ]
    check_new(paths, args.overwrite, [*images, args.config, args.checkpoint])
    return stems


@torch.no_grad()
def predict(model: GatedModel, batch: dict) -> BaseDataElement:
    """The prediction of a batch of one image, without what drawings do not need."""
    batch = model.data_preprocessor(batch)
    (sample,) = model.predict(batch['inputs'], batch['data_samples'])
    for name in HEAVY:
        sample.pop(name, None)
    return sample


def as_seen(batch: dict) -> np.ndarray:
    """The one image of a batch, resized and cropped as the pipeline does, RGB, uint8, shape (H, W, 3)."""
    (image,) = batch['inputs']  # BGR, as the hosts load it
    return np.ascontiguousarray(image.permute(1, 2, 0).clamp(0, 255).byte().numpy()[..., ::-1])


def npz_bytes(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def main(args: Namespace) -> None:
    use_safe_loader()
    with one_line_errors():
        images = find_images(Path(args.images))
        stems = name_outputs(images, args)
        cfg = load_config(args.config, args.cfg_options)
        model = build_gated_model(cfg, args.checkpoint, args.device)
        batches = load_split(cfg, 'test', folder=args.images)

        samples = []
        for path, stem, batch in zip(images, stems, track(batches, description='drawing'), strict=True):
            with foreign_errors(f"image '{path}'"):
                sample = predict(model, batch)
            samples.append(sample)
            figure = draw_choices(as_seen(batch), sample, path.name)
            contents = {stem.with_name(f'{stem.name}.png'): png_bytes(figure, dpi=120)}
            if maps := route_maps(sample):
                contents[stem.with_name(f'{stem.name}.npz')] = npz_bytes(cost_ratio=sample.cost_ratio, **maps)
            write_files(contents)
        summary = draw_summary(samples)
        if summary is not None:
            write_files({Path(args.out_dir) / f'{SUMMARY}.png': png_bytes(summary, dpi=120)})
    print(f'{len(images)} {"scale maps" if summary is None else "routes"} in {args.out_dir}')
