"""Export a model for images of one size: a file for each budget of tokens, and a list of them.

msvit export CONFIG CHECKPOINT exported/scenes.onnx --token-budget 60 90 --size 96 96 --with-gate

Without --token-budget every token is computed and masked: exact for what the gate decides, without any saving.
Networks take normalised images and return class scores at the images' size.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from ...checkpoints import check_new, use_safe_loader, write_files
from ...export import FORMATS, describe_engines, export_graph, load_graph, make_engines
from ..config import add_config_arguments, load_config, seed_of
from ..errors import one_line_errors
from ..images import load_inputs
from ..models import build_gated_model
from ..records import describe_run, json_bytes, make_table


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint')
    parser.add_argument('output', metavar='OUT', help='NAME.onnx; written are NAME-<budget>.onnx and NAME.json')
    parser.add_argument('--format', choices=list(FORMATS), help='default: by the suffix of OUT')
    parser.add_argument('--token-budget', type=float, nargs='+', metavar='N', help='patch tokens of every image')
    parser.add_argument('--size', type=int, nargs=2, required=True, metavar=('H', 'W'), help='of the images in pixels')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--with-gate', action='store_true', help='the gate alone, too, to pick a budget for each image')
    parser.add_argument('--images', help='a folder to compare on, instead of the test images of the config')
    parser.add_argument('--overwrite', action='store_true', help='replace existing files of these names')
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    use_safe_loader()
    output, size = Path(args.output), tuple(args.size)
    with one_line_errors():
        form = args.format or output.suffix.lstrip('.')
        if form not in FORMATS or output.suffix not in ('', f'.{form}'):
            raise ValueError(f"output '{output}': wanted a name that ends in {' or '.join(f'.{x}' for x in FORMATS)}.")
        if args.batch_size < 1:
            raise ValueError(f'--batch-size: wanted at least 1, got {args.batch_size}.')
        cfg = load_config(args.config, args.cfg_options)
        torch.manual_seed(seed_of(cfg))
        model = build_gated_model(cfg, args.checkpoint, 'cpu')
        engines = make_engines(model, size, args.token_budget or [None], args.with_gate)
        files = [output.with_name(f'{output.stem}-{engine.name}.{form}') for engine in engines]
        listing = output.with_suffix('.json')
        check_new([*files, listing], args.overwrite)
        images, source = load_inputs(cfg, model, args.batch_size, size, args.images)
        with one_line_errors(ImportError):
            contents = [export_graph(engine.network, images, form, engine.outputs) for engine in engines]

    differences = [compare(engine.network, images, content, form) for engine, content in zip(engines, contents)]
    described = describe_engines(engines, [file.name for file in files], images)
    rows = [*described['engines'], *(row for row in described.values() if isinstance(row, dict))]
    for row in rows:
        row['max_difference'] = dict(zip((file.name for file in files), differences))[row['file']]
    record = {**described, 'compared_on': source, **describe_run(vars(args), seed_of(cfg), 'cpu')}
    write_files({**dict(zip(files, contents)), listing: json_bytes(record)})
    Console().print(make_table(rows))
    print(f'written     {len(files)} files and {listing}')


def compare(network: torch.nn.Module, images: torch.Tensor, content: bytes, form: str) -> float:
    """The largest difference between what a network and its file compute."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'network.{form}')
        path.write_bytes(content)
        got = load_graph(path)(images)
    wanted = network(images)
    wanted = (wanted,) if isinstance(wanted, torch.Tensor) else wanted
    return max((x - y).abs().max().item() for x, y in zip(got, wanted, strict=True))
