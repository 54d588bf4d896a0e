"""Export a model for images of one size: a file for each budget of tokens, and a list of them.

msvit export CONFIG CHECKPOINT exported/scenes.onnx --token-budget 60 90 --size 96 96 --with-gate

Without --token-budget every token is computed and masked: exact for what the gate decides, without any saving.
Networks take normalised images and return class scores at the images' size.
"""

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from ...checkpoints import check_new, use_safe_loader, write_files
from ...export import FORMATS, describe_engine, differences, export_graph, list_engines, make_engines
from ...studies.exported import add_times, dense_engine
from ..config import load_config, seed_of
from ..errors import one_line_errors
from ..images import load_inputs
from ..models import build_gated_model
from ..records import COST_COLUMNS, Column, describe_run, json_bytes, make_table

COLUMNS = [Column('', '{file}'), Column('fine regions', '{num_fine}'), *COST_COLUMNS]
COLUMNS += [Column('file - network', '{max_difference:.1e}')]
PREPROCESSING = ('type', 'mean', 'std', 'bgr_to_rgb', 'to_rgb')


@torch.no_grad()
def main(args: Namespace) -> None:
    use_safe_loader()
    output, size = Path(args.output), tuple(args.size)
    with one_line_errors():
        form = args.format or output.suffix.lstrip('.')
        if form not in FORMATS or output.suffix not in ('', f'.{form}'):
            wanted = f'.{form}' if form in FORMATS else ' or '.join(f'.{x}' for x in FORMATS)
            raise ValueError(f"output '{output}': wanted a name that ends in {wanted}.")
        if args.time and not args.token_budget:
            raise ValueError('--time: wanted a --token-budget whose saving is timed, got none.')
        cfg = load_config(args.config, args.cfg_options)
        torch.manual_seed(seed_of(cfg))
        model = build_gated_model(cfg, args.checkpoint, 'cpu')
        engines = make_engines(model, size, args.token_budget or [None], args.with_gate, args.backbone)
        files = [output.with_name(f'{output.stem}-{engine.name}.{form}') for engine in engines]
        listing = output.with_name(f'{output.stem}.{form}.json')  # that of another form stays beside it
        check_new([*files, listing], args.overwrite, [args.config, args.checkpoint])
        images, source = load_inputs(cfg, model, args.batch_size, size, args.images)
        with one_line_errors(ImportError):
            contents = [
                export_graph(engine.network, images, form, engine.outputs) for engine in track(engines, 'exporting')
            ]

    rows = [
        describe_engine(engine, file.name, images, differences(engine.network, content, form, images))
        for engine, file, content in zip(engines, files, contents, strict=True)
    ]
    with one_line_errors():
        write_files(dict(zip(files, contents, strict=True)))
    if args.time:
        progress = partial(track, description='timing')
        dense, *rows = add_times(rows, files, dense_engine(model, size, args.backbone), images, args.time, progress)
    inputs = dict(batch_size=args.batch_size, image_size=size, preprocessing=preprocessing(cfg), compared_on=source)
    if args.time:
        inputs |= dict(dense=dense, clock='processor time of a batch, 1 thread')
    record = {**list_engines(engines, rows), **inputs, **describe_run(vars(args), seed_of(cfg), 'cpu')}
    with one_line_errors():
        write_files({listing: json_bytes(record)})
    Console().print(make_table(rows, COLUMNS))
    print(f'written     {len(files)} files and {listing}')


def preprocessing(cfg: Config) -> dict[str, Any]:
    """What images go through before they are a network's input, in the words of the config."""
    config = {**(cfg.get('data_preprocessor') or {}), **(cfg.model.get('data_preprocessor') or {})}
    return {name: value for name, value in config.items() if name in PREPROCESSING}
