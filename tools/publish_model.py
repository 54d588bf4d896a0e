"""Publish a trained checkpoint: no optimizer state, its hash in the name, an entry in the metafile beside it.

python tools/publish_model.py CONFIG CHECKPOINT published/msvit_upernet_scenes.pth
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.checkpoints.publish import (
    check_trained_as,
    describe_model,
    find_metrics,
    hashed_name,
    kept_text,
    step_unit,
    strip_checkpoint,
    update_metafile,
)
from msvit_mm.checkpoints.saving import check_new, checkpoint_bytes, write_files
from msvit_mm.engine.inference import build_gated_model
from msvit_mm.engine.launch import format_metrics, load_config, one_line_errors


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the run's config")
    parser.add_argument('checkpoint', help='as tools/train.py wrote it, best in its work directory, with the logs')
    parser.add_argument('output', metavar='DST', help='NAME.pth; written are NAME-<hash>.pth and metafile.yml beside')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file and entry of this name')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    output = Path(args.output)
    metafile = output.with_name('metafile.yml')
    with one_line_errors():
        if output.suffix != '.pth':
            raise ValueError(f"output '{output}': wanted a name that ends in .pth, got '{output.suffix}'.")
        checkpoint = load_checkpoint_safely(args.checkpoint)
        kept_text(checkpoint, args.checkpoint)
        cfg = load_config(Namespace(config=args.config, launcher='none', cfg_options=None, work_dir=None))
        model = build_gated_model(cfg, None, 'cpu')
        check_trained_as(cfg, model, checkpoint, args.checkpoint)
        metrics = find_metrics(checkpoint, args.checkpoint, step_unit(cfg))
        published = strip_checkpoint(checkpoint, metrics)
        content = checkpoint_bytes(published)
        target = hashed_name(output, content)
        check_new([target], args.overwrite)
        entry = describe_model(output.stem, target.name, cfg, os.path.relpath(args.config), model, published['meta'])
        listing = update_metafile(metafile, entry, args.overwrite)

    write_files({target: content, metafile: listing.encode()})
    before, after = Path(args.checkpoint).stat().st_size / 1e6, len(content) / 1e6
    print(f'size        {after:.1f} MB, from {before:.1f} MB')
    print(f'metrics     {format_metrics(metrics) or "none of these weights, in the checkpoint or the log of its run"}')
    print(f'written     {target}, {metafile}')


if __name__ == '__main__':
    main()
