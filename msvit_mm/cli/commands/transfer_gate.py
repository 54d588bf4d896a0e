"""Move a trained gate to another task, backbone or image size, as a checkpoint to start the target from.

msvit transfer-gate SOURCE_CONFIG SOURCE_CHECKPOINT TARGET_CONFIG gate.pth
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.progress import track

from ...checkpoints import (
    carry_metadata,
    check_checkpoint_name,
    check_new,
    checkpoint_bytes,
    compare_scale_maps,
    load_checkpoint_safely,
    load_gate,
    transfer_gate,
    write_files,
)
from ...datasets.prepared import PreparedImages
from ...models import GatedModel
from ..config import load_config
from ..errors import one_line_errors
from ..images import check_data, load_images, load_split
from ..models import build_gated_model, check_regions, load_target_weights
from ..records import json_bytes

NUM_IMAGES = 64
FOLDER_PIPELINE = [dict(type='LoadImageFromFile'), dict(type='mmseg.PackSegInputs')]


def build_model(path: str) -> tuple[Config, GatedModel]:
    """The config and its model with a gate over regions, with random weights.

    Raises:
        ValueError: If the config is absent or has no such model.
    """
    cfg = load_config(path)
    model = build_gated_model(cfg, None, 'cpu')
    check_regions(model, cfg)
    return cfg, model


def sample_images(cfg: Config, folder: str | None) -> PreparedImages | None:
    """Images of the folder or, if it is there, of the config's test data set."""
    if folder:
        return load_images(dict(pipeline=FOLDER_PIPELINE), NUM_IMAGES, folder)
    try:
        check_data(cfg, 'test')
    except ValueError:
        return None
    return load_split(cfg, 'test', NUM_IMAGES) if cfg.get('test_dataloader') else None


def format_report(report: dict[str, Any]) -> str:
    """The report as text, one line per key and number."""
    names = ('moved', 'mapped', 'resampled', 'left')
    lines = [f'{name:12}{line}' for name in names for line in report[name] or ['none']]
    if (maps := report['scale_maps']) is None:
        return '\n'.join([*lines, 'scale maps  not compared: no test data; --images FOLDER'])
    ratios = '{source_coarse_ratio:.3f} at the source, {target_coarse_ratio:.3f} at the target, {num_images} images'
    lines += ['coarse      ' + ratios.format(**maps)]
    lines += ['agreement   {agreement:.3f} of the regions, {agreement_by_chance:.3f} by chance'.format(**maps)]
    return '\n'.join(lines)


def main(args: Namespace) -> None:
    output = Path(args.output)
    paths = (output, Path(args.report) if args.report else output.with_suffix('.json'))
    with one_line_errors():
        check_checkpoint_name(output)
        if paths[0] == paths[1]:
            raise ValueError(f"--report: wanted another file than DST, got '{paths[1]}'.")
        inputs = (args.source_config, args.source_checkpoint, args.target_config, args.target_checkpoint)
        check_new(paths, args.overwrite, inputs)
        _, source = build_model(args.source_config)
        load_gate(source, load_checkpoint_safely(args.source_checkpoint)['state_dict'])
        cfg, target = build_model(args.target_config)
        moved, listed = transfer_gate(source, target)
        report: dict[str, Any] = dict(listed)
        others = load_target_weights(target, args.target_checkpoint) if args.target_checkpoint else {}
        target.load_state_dict(moved, strict=False)
        images = sample_images(cfg, args.images)
        report['scale_maps'] = images and compare_scale_maps(
            source, target, (batch['inputs'][0] for batch in track(images, 'comparing scale maps'))
        )

    report |= {name: Path(getattr(args, name)).name for name in ('source_config', 'source_checkpoint', 'target_config')}
    report['target_checkpoint'] = args.target_checkpoint and Path(args.target_checkpoint).name
    meta = dict(source=report['source_checkpoint'], report=report)
    written = carry_metadata({**others, **moved}, others)
    contents = checkpoint_bytes(dict(state_dict=written, meta=meta)), json_bytes(report)
    with one_line_errors():
        write_files(dict(zip(paths, contents, strict=True)))
    print(format_report(report))
    print(f'written     {paths[0]}, {paths[1]}')
    init_cfg = f"model.init_cfg = dict(type='Pretrained', checkpoint='{output}')"
    print(f"use         load_from = '{output}'" if others else f'use         {init_cfg}')
