"""Write generated scenes as a data set in COCO's format, to train detectors on: images, boxes and masks of the shapes.

msvit scenes-to-coco scenes_coco --num-images 2000 200

The layout is COCO's: train2017, val2017, annotations/instances_train2017.json and instances_val2017.json.
"""

import json
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ...checkpoints import check_folder, write_files
from ...datasets.coco import coco_record, coco_scene, file_name
from ...datasets.scenes import SPLITS
from ..errors import one_line_errors


def main(args: Namespace) -> None:
    console, out_dir, size = Console(), Path(args.out_dir), (args.size[0], args.size[1])
    with one_line_errors():
        check_folder(out_dir, args.overwrite)
        for split, count in zip(SPLITS, args.num_images, strict=True):
            scenes = []
            for index in track(range(count), description=split, console=console):
                image, shapes = coco_scene(args.seed, split, index, size)
                write_files({out_dir / f'{split}2017' / file_name(index): image})
                scenes.append(shapes)
            text = json.dumps(coco_record(scenes, size))
            write_files({out_dir / 'annotations' / f'instances_{split}2017.json': text.encode()})
            console.print(f'{split}: {count} images, {sum(map(len, scenes))} shapes')
