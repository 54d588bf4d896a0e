"""Look at the data of a config before training: pairs, classes, labels, sizes, and a sheet of examples.

msvit check-dataset CONFIG --out sheet.png

Ends with exit status 1 if labels lie outside the classes, or files or words of the config do not fit.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS
from rich.console import Console
from rich.progress import track

from ...checkpoints import check_new, write_files
from ...datasets.configs import datasets_of, entries_below, type_name
from ...datasets.named import NamedSamples
from ...studies.survey import Survey, survey
from ...visualization import draw_sheet
from ..config import load_config
from ..config_checks import check_config, classes_of
from ..errors import one_line_errors
from ..outputs import png_bytes
from ..records import Column, make_table

STEPS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='CheckLabels', num_classes=None)]
COLUMNS = [Column('', '{number}'), Column('class', '{name}'), Column('pixels', '{share:.2%}')]
COLUMNS += [Column('images', '{num_images}')]


def load_samples(cfg: Config, split: str) -> Any:
    """The data sets of a split as one, its images and labels as they are on the disk.

    Raises:
        ValueError: If there are no labels to look at, files are missing, or none has the data set's suffix.
    """
    leaves = datasets_of(cfg, split)
    if classes_of(cfg, split) is None:
        raise ValueError(f'{split} data: wanted a segmentation data set with classes, got {type_name(leaves[0])!r}.')
    return NamedSamples(ConcatDataset([_load_leaf(leaf, split) for leaf in leaves]))


def _load_leaf(config: Any, split: str) -> Any:
    try:
        dataset = DATASETS.build({**config, 'pipeline': STEPS, 'test_mode': True, 'serialize_data': False})
    except OSError as error:
        raise ValueError(f'{split} data: {error}.') from None
    if len(dataset) == 0:
        folder = Path(dataset.data_prefix['img_path'])
        found = Counter(path.suffix or 'none' for path in entries_below(folder) if path.is_file())
        got = ', '.join(f'{count} of {suffix}' for suffix, count in found.items()) or 'no file'
        raise ValueError(f"{split} data: wanted *{dataset.img_suffix} in '{folder}', got {got}; img_suffix says which.")
    paths = [dataset.get_data_info(i).get('seg_map_path') or '' for i in range(len(dataset))]
    missing = [path for path in paths if '://' not in path and not Path(path).is_file()]
    if missing:
        raise ValueError(
            f'{split} data: wanted a mask for each of {len(paths)} images, got {len(paths) - len(missing)}; '
            f"the first missing is '{missing[0]}'; seg_map_suffix says how masks end."
        )
    return dataset


def report(console: Console, split: str, found: Survey, classes: Sequence[str], total: int) -> list[str]:
    """Print what a survey found, and return its warnings."""
    console.print(make_table(found.class_rows(classes), COLUMNS, f'{split}: {found.sizes.total()} of {total} images'))
    heights, widths = np.array(list(found.sizes.elements())).T
    console.print(
        f'sizes {len(found.sizes)}, heights {heights.min()} to {heights.max()}, widths {widths.min()} to '
        f'{widths.max()} pixels; ignored {found.ignored_share:.1%} of the pixels',
        highlight=False,
        soft_wrap=True,
    )
    warnings = found.warnings(classes)
    for line in warnings:
        console.print(f'warning: {line}', highlight=False, markup=False, soft_wrap=True)
    return warnings


def main(args: Namespace) -> None:
    console = Console()
    examples, outside = [], []
    with one_line_errors():
        check_new([Path(args.out)] if args.out else [], args.overwrite, [args.config])
        cfg = load_config(args.config, args.cfg_options)
        check_config(cfg)
        for split in [args.split] if args.split else ['train', 'val']:
            samples = load_samples(cfg, split)
            count = min(args.num_images, len(samples))
            chosen = [i * len(samples) // count for i in range(count)]
            loaded = track(chosen, f'reading {split}', console=console)
            found = survey((samples[i] for i in loaded), len(samples.metainfo['classes']))
            report(console, split, found, samples.metainfo['classes'], len(samples))
            outside += [f'{value} in {name}' for value, name in found.outside.items()]
            for i in chosen[:: max(1, count // 6)][:6]:
                sample = samples[i]
                name = f'{split}: {Path(sample["img_path"]).name}'
                if sample['img'].shape[:2] == sample['gt_seg_map'].shape:
                    examples.append((name, sample['img'][..., ::-1], sample['gt_seg_map']))
        if args.out and examples:
            sheet = draw_sheet(examples, samples.metainfo['classes'], samples.metainfo['palette'])
            write_files({Path(args.out): png_bytes(sheet, dpi=100)})
            console.print(f'{len(examples)} examples in {args.out}', highlight=False, soft_wrap=True)
        if outside:
            raise ValueError(f'labels: wanted classes of the config or 255, got {", ".join(outside[:4])}.')
