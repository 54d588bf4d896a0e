"""Segment images or a video with a trained network: classes, what the gate chose, tokens, GMACs and time.

msvit predict CHECKPOINT photo.jpg --budget 100 --out-dir predictions

The config is the one that the checkpoint keeps, unless --config names another.
"""

from argparse import Namespace
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from ...checkpoints import check_folder, check_new, use_safe_loader, write_files
from ...studies.prediction import Prediction, check_budget, draw_prediction, predict_image
from ..errors import foreign_errors, one_line_errors
from ..models import load_trained_segmentor
from ..outputs import image_bytes
from ..photos import find_photos, is_video
from ..records import Column, check_record, describe_run, make_table, write_record

COLUMNS = [Column('image', '{name}'), Column('tokens', '{num_tokens:.0f}'), Column('GMACs', '{gmacs:.4g}')]
COLUMNS += [Column('of dense backbone', '{cost_ratio:.2f}'), Column('ms', '{time_ms:.4g}')]


def pictures_of(folder: Path, name: str) -> tuple[Path, Path]:
    """Where the picture and the labels of an image go."""
    return folder / f'{name}.png', folder / f'{name}_labels.png'


def save(prediction: Prediction, palette: list, folder: Path, name: str) -> str:
    """Write the segmentation beside the choices, and the labels; return the choices in words."""
    segmentation, choices, words = draw_prediction(prediction, palette)
    height, width = segmentation.shape[:2]
    choices = cv2.resize(choices, (width, height), interpolation=cv2.INTER_AREA)
    beside = np.hstack([prediction.image, segmentation, choices])
    picture, labels = pictures_of(folder, name)
    write_files({picture: image_bytes(beside), labels: image_bytes(prediction.labels.astype(np.uint8))})
    return words


def main(args: Namespace) -> None:
    use_safe_loader()
    console = Console()
    path, folder = Path(args.images), Path(args.out_dir)
    rows: list[dict[str, Any]] = []
    with one_line_errors():
        photos: Iterable[tuple[str, Path | np.ndarray]] = find_photos(path, args.max_frames)
        inputs = args.checkpoint, args.config
        check_record(args, *inputs, args.images)
        if is_video(path):  # its frames are of one size
            first = next(iter(photos))
            looked_at, photos = [first], chain([first], photos)
            check_folder(folder, args.overwrite)
        else:
            looked_at = photos = list(photos)
            if args.max_frames is not None:
                raise ValueError(f"--max-frames: wanted a video, got '{path}'.")
            outputs = [output for name, _ in photos for output in pictures_of(folder, name)]
            outputs += [Path(args.out)] if args.out else []
            check_new(outputs, args.overwrite, [*inputs, *(str(photo) for _, photo in photos)])
        model = load_trained_segmentor(args.checkpoint, args.config, args.cfg_options, args.device)
        for _, photo in looked_at:
            check_budget(model, photo, args.budget)
        try:
            for name, photo in track(photos, 'predicting', console=console):
                with foreign_errors(f"image '{name}'"):  # such as one too small for the neck
                    if not rows:
                        predict_image(model, photo, args.budget)  # warms up
                    prediction = predict_image(model, photo, args.budget)
                words = save(prediction, model.dataset_meta['palette'], folder, name)
                numbers = {key: prediction.sample.get(key) for key in ('num_tokens', 'gmacs', 'cost_ratio')}
                rows.append(dict(name=name, **numbers, time_ms=prediction.time_ms, choices=words))
        finally:  # of what was done before an image that cannot be predicted
            write_record(args.out, dict(images=rows), describe_run(vars(args), 0, args.device))
    shown = rows if len(rows) <= 20 else rows[:20]
    console.print(make_table(shown, COLUMNS, f'{len(rows)} images, {len(shown)} shown'))
    classes = ', '.join(model.dataset_meta['classes'])
    console.print(f'classes {classes}; pictures in {folder}', highlight=False, soft_wrap=True)
