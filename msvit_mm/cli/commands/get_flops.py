"""Count tokens and multiply-adds on the images of the config's test data set, or of a folder.

msvit get-flops CONFIG CHECKPOINT --check --out flops.json
"""

from argparse import Namespace

import torch
from rich.console import Console
from rich.progress import track

from ...checkpoints import use_safe_loader
from ...evaluation import count_parts
from ...studies.flops import check_count, summarize
from ..config import load_config, seed_of
from ..errors import foreign_errors, one_line_errors
from ..images import load_split
from ..models import build_gated_model
from ..records import Column, check_record, describe_run, make_table, write_record

COLUMNS = [Column('', '{part}')]
COLUMNS += [Column(name, f'{{{name}:.4g}}') for name in ('mean', 'p5', 'p50', 'p95', 'dense', 'ratio')]
CONVENTION = '1 MAC = 1 FLOP, as the papers count; norms, activations, softmax and biases are not counted.'
CAVEAT = (
    'Fused attention hides its work from common counters. Here the backbone is counted in closed form (--check '
    "compares it with torch's FlopCounterMode under the math kernel), and so is a head on tokens; neck and head on "
    'feature maps are counted by that counter.'
)
UNTRAINED = 'No checkpoint: what the gate decides here is the choice of random weights.'


def main(args: Namespace) -> None:
    use_safe_loader()
    console = Console()
    with one_line_errors(), torch.no_grad():
        check_record(args, args.config, args.checkpoint, args.images)
        cfg = load_config(args.config, args.cfg_options)
        seed = seed_of(cfg)
        torch.manual_seed(seed)
        model = build_gated_model(cfg, args.checkpoint, args.device)
        images = load_split(cfg, 'test', args.num_images, args.images)
        if args.check:
            error = check_count(model, model.data_preprocessor(images[0]), seed)
            console.print(f'closed form against FlopCounterMode, first image: off by {error:.1e}')
        batches = track(images, description='counting', console=console)
        with foreign_errors('images'):  # such as one too small for the neck
            counted = [count_parts(model, model.data_preprocessor(batch)) for batch in batches]

    summary = summarize(*zip(*counted, strict=True))
    rows = {'tokens': summary['num_tokens'], **summary['gmacs']}
    title = f'Tokens and GMACs per image, {len(images)} images'
    console.print(make_table([dict(part=part, **row) for part, row in rows.items()], COLUMNS, title))
    notes = [CONVENTION, CAVEAT] + [UNTRAINED] * (args.checkpoint is None)
    console.print(*notes, sep='\n')
    numbers = dict(num_images=len(images), **summary, notes=notes)
    with one_line_errors():
        write_record(args.out, numbers, describe_run(vars(args), seed, args.device))
