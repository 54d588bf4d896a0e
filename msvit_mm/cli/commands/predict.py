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

from ...checkpoints import use_safe_loader
from ...studies.prediction import Prediction, check_budget, draw_prediction, predict_image
from ..errors import one_line_errors
from ..models import load_trained_segmentor
from ..photos import find_photos, is_video
from ..records import Column, describe_run, make_table, write_record

COLUMNS = [Column('image', '{name}'), Column('tokens', '{num_tokens:.0f}'), Column('GMACs', '{gmacs:.4g}')]
COLUMNS += [Column('of dense backbone', '{cost_ratio:.2f}'), Column('ms', '{time_ms:.4g}')]


def save(prediction: Prediction, palette: list, folder: Path, name: str) -> str:
    """Write NAME.png, the segmentation beside the choices, and NAME_labels.png; return the choices in words."""
    segmentation, choices, words = draw_prediction(prediction, palette)
    height, width = segmentation.shape[:2]
    choices = cv2.resize(choices, (width, height), interpolation=cv2.INTER_AREA)
    beside = np.hstack([prediction.image, segmentation, choices])
    cv2.imwrite(str(folder / f'{name}.png'), beside[..., ::-1])
    cv2.imwrite(str(folder / f'{name}_labels.png'), prediction.labels.astype(np.uint8))
    return words


def main(args: Namespace) -> None:
    use_safe_loader()
    console = Console()
    path, folder = Path(args.images), Path(args.out_dir)
    rows: list[dict[str, Any]] = []
    with one_line_errors():
        found = find_photos(path, args.max_frames)
        model = load_trained_segmentor(args.checkpoint, args.config, args.cfg_options, args.device)
        if is_video(path):  # its frames are of one size
            first = next(found)
            check_budget(model, first[1], args.budget)
            photos: Iterable[tuple[str, Path | np.ndarray]] = chain([first], found)
        else:
            photos = list(found)
            for _, photo in photos:
                check_budget(model, photo, args.budget)
        folder.mkdir(parents=True, exist_ok=True)
        for name, photo in track(photos, 'predicting', console=console):
            if not rows:
                predict_image(model, photo, args.budget)  # warms up
            prediction = predict_image(model, photo, args.budget)
            words = save(prediction, model.dataset_meta['palette'], folder, name)
            numbers = {key: prediction.sample.get(key) for key in ('num_tokens', 'gmacs', 'cost_ratio')}
            rows.append(dict(name=name, **numbers, time_ms=prediction.time_ms, choices=words))
    shown = rows if len(rows) <= 20 else rows[:20]
    console.print(make_table(shown, COLUMNS, f'{len(rows)} images, {len(shown)} shown'))
    console.print(f'classes {", ".join(model.dataset_meta["classes"])}; pictures in {folder}', highlight=False)
    write_record(args.out, dict(images=rows), describe_run(vars(args), 0, args.device))
