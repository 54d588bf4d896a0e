"""Publish a trained checkpoint without its training state: a folder for the Hub, of safetensors, config and card.

msvit publish-model CONFIG CHECKPOINT published/msvit_upernet_scenes

An output that ends in .pth is one torch file instead, its hash in the name; either has an entry in the metafile beside.
"""

import os
from argparse import Namespace
from functools import partial
from pathlib import Path

from ...checkpoints import load_checkpoint_safely
from ...checkpoints.hub import WEIGHTS, hub_files
from ...checkpoints.publish import (
    check_trained_as,
    describe_model,
    find_metrics,
    hashed_name,
    kept_text,
    step_unit,
    strip_checkpoint,
    update_metafile,
)
from ...checkpoints.saving import check_new, checkpoint_bytes, write_files
from ..config import load_config
from ..errors import one_line_errors
from ..models import build_gated_model
from ..records import format_metrics


def main(args: Namespace) -> None:
    output = Path(args.output)
    to_hub = (args.format or output.suffix.lstrip('.')) != 'pth'
    metafile = (output if to_hub else output.parent) / 'metafile.yml'
    with one_line_errors():
        if not output.name:
            raise ValueError(f"output '{output}': wanted the name of a new folder, or NAME.pth.")
        if to_hub and output.suffix in ('.pth', '.pt', '.safetensors'):
            raise ValueError(f"output '{output}': wanted the name of a folder, got a file's.")
        if not to_hub and output.suffix != '.pth':
            raise ValueError(f"output '{output}': wanted a name that ends in .pth, got '{output.suffix}'.")
        check_new([metafile, hashed_name(output, b'')], overwrite=True, inputs=[args.config, args.checkpoint])
        checkpoint = load_checkpoint_safely(args.checkpoint)
        kept_text(checkpoint, args.checkpoint)
        cfg = load_config(args.config)
        model = build_gated_model(cfg, None, 'cpu')
        check_trained_as(cfg, model, checkpoint, args.checkpoint)
        metrics = find_metrics(checkpoint, args.checkpoint, step_unit(cfg))
        published = strip_checkpoint(checkpoint, metrics)
        describe = partial(describe_model, cfg=cfg, config=os.path.relpath(args.config), model=model)
        if to_hub:
            entry = describe(output.name, WEIGHTS, meta=published['meta'])
            with one_line_errors(ImportError):
                files = hub_files(published, entry, model.backbone.paper)
            contents = {output / name: content for name, content in files.items()}
        else:
            content = checkpoint_bytes(published)
            contents = {hashed_name(output, content): content}
            entry = describe(output.stem, next(iter(contents)).name, meta=published['meta'])
        check_new(contents, args.overwrite, [args.checkpoint])
        listing = update_metafile(metafile, entry, args.overwrite, model.backbone.paper)

    with one_line_errors():
        write_files({**contents, metafile: listing.encode()})
    before, after = Path(args.checkpoint).stat().st_size / 1e6, len(next(iter(contents.values()))) / 1e6
    print(f'size        {after:.1f} MB, from {before:.1f} MB')
    print(f'metrics     {format_metrics(metrics) or "none of these weights, in the checkpoint or the log of its run"}')
    print(f'written     {", ".join(map(str, [*contents, metafile]))}')
