"""Count tokens and multiply-adds on the images of the config's test data set, or of a folder.

python tools/get_flops.py CONFIG CHECKPOINT --check --out flops.json
"""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from msvit_mm.checkpoints import use_safe_loader
from msvit_mm.engine.inference import UnlabelledImages, build_gated_model, describe_run
from msvit_mm.engine.launch import add_common_arguments, check_data, load_config, one_line_errors
from msvit_mm.evaluation import PARTS, count_parts, spread
from msvit_mm.ops.macs import count_macs

CONVENTION = '1 MAC = 1 FLOP, as the papers count; norms, activations, softmax and biases are not counted.'
CAVEAT = (
    'Fused attention hides its work from common counters. Here the backbone is counted in closed form (--check '
    "compares it with torch's FlopCounterMode under the math kernel), and so is a head on tokens; neck and head on "
    'feature maps are counted by that counter.'
)
UNTRAINED = 'No checkpoint: what the gate decides here is the choice of random weights.'
TOLERANCE = 1e-3


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?')
    parser.add_argument('--images', help='a folder of images instead of the test data set')
    parser.add_argument('--num-images', type=int, help='evenly spaced over the data set; default all')
    parser.add_argument('--check', action='store_true', help='compare with what the first image really dispatches')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--out', help='JSON file of the table')
    add_common_arguments(parser)
    return parser.parse_args()


def check_count(model: torch.nn.Module, batch: dict, seed: int) -> float:
    """Relative error of the backbone's closed form on this batch.

    Raises:
        ValueError: If it exceeds the tolerance.
    """
    torch.manual_seed(seed)  # random gates decide alike
    counts, _ = count_parts(model, batch)
    torch.manual_seed(seed)
    dispatched = count_macs(model.predict, batch['inputs'], batch['data_samples']) / 1e9
    error = abs(dispatched - counts['whole']) / counts['backbone']
    if error > TOLERANCE:
        raise ValueError(f'count: wanted the {dispatched:.6f} GMACs that are dispatched, got {counts["whole"]:.6f}.')
    return error


def summarize(counts: list[dict], dense: list[dict]) -> dict:
    """Spread over the images of each number, beside its dense mean and the ratio of the means."""
    rows = {}
    for name in ('num_tokens', *PARTS):
        row = spread([image[name] for image in counts])
        row['dense'] = spread([image[name] for image in dense])['mean']
        row['ratio'] = row['mean'] / row['dense'] if row['dense'] else None
        rows[name] = row
    return dict(num_tokens=rows.pop('num_tokens'), gmacs=rows)


def format_table(summary: dict, num_images: int) -> Table:
    table = Table(
        '', 'mean', 'p5', 'p50', 'p95', 'dense', 'ratio', title=f'Tokens and GMACs per image, {num_images} images'
    )
    for title, row in {'tokens': summary['num_tokens'], **summary['gmacs']}.items():
        table.add_row(title, *('-' if value is None else f'{value:.4g}' for value in row.values()))
    return table


def main() -> None:
    args = parse_args()
    use_safe_loader()
    console = Console()
    with one_line_errors(), torch.no_grad():
        cfg = load_config(args)
        seed = cfg.get('randomness', {}).get('seed') or 0
        torch.manual_seed(seed)
        if not args.images:
            check_data(cfg, 'test')
        model = build_gated_model(cfg, args.checkpoint, args.device)
        images = UnlabelledImages(cfg.test_dataloader.dataset, args.num_images, args.images)
        if args.check:
            error = check_count(model, model.data_preprocessor(images[0]), seed)
            console.print(f'closed form against FlopCounterMode, first image: off by {error:.1e}')
        counted = []
        for batch in track(images, description='counting', console=console):
            counted.append(count_parts(model, model.data_preprocessor(batch)))

    summary = summarize(*zip(*counted, strict=True))
    console.print(format_table(summary, len(images)))
    notes = [CONVENTION, CAVEAT] + [UNTRAINED] * (args.checkpoint is None)
    console.print(*notes, sep='\n')
    if args.out:
        record = dict(num_images=len(images), **summary, notes=notes, **describe_run(args, seed, args.device))
        Path(args.out).write_text(json.dumps(record, indent=2))


if __name__ == '__main__':
    main()
