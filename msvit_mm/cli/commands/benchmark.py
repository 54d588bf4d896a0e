"""Time a gated segmentor against its dense host on distinct images under stated decisions.

msvit benchmark CONFIG --batch-sizes 1 4 --ratios 0.5 --out benchmark.json
"""

from argparse import Namespace
from functools import partial

import torch
from rich.console import Console
from rich.progress import track

from ...backbones.base import height_and_width
from ...checkpoints import use_safe_loader
from ...models import GatedModel
from ...studies.benchmark import PARTS, decode, time_forms
from ...studies.forms import make_forms, state_decisions
from ...studies.timing import clock_of
from ..config import load_config, seed_of
from ..errors import foreign_errors, one_line_errors
from ..images import load_inputs
from ..models import build_gated_model, check_segmentor
from ..records import COST_COLUMNS, Column, check_record, describe_run, make_table, write_record

COLUMNS = (
    Column('decisions', '{decisions}'),
    Column('variant', '{variant}'),
    *COST_COLUMNS,
    Column('MiB', '{peak_memory_mib:.3g}'),
    Column('MiB / dense', '{peak_memory_ratio:.2f}'),
    Column('outside blocks', '{outside_blocks:.1%}'),
)
NOTES = [
    'tokens and GMACs: mean per image; ms: per batch. 1 MAC = 1 FLOP, as the papers count.',
    'time / dense: median and quartiles of the ratio to the dense model, round by round.',
    'efficiency = (dense time / time) / (dense MACs / MACs of the active tokens); 1: all saved MACs became time.',
    'outside blocks: share of the backbone time that gate, embeddings, packing and scatter take, not the blocks.',
    'smaller image: the dense model at the size that gives as many tokens.',
]
STEPS = 'packed: without what merges or leaves between the layers; packed, steps: with it.'
TRAINING = 'Loss: mean square of features or logits, heads in evaluation mode.'
SHARE = 'Counterfactual share {:g}.'
UNTRAINED = 'No checkpoint: random weights, and random decisions alone.'


def check_args(args: Namespace, model: GatedModel) -> None:
    possible = model.backbone.train_executions if args.train else model.backbone.test_executions
    if impossible := [name for name in args.executions or () if name not in possible]:
        raise ValueError(f'--executions: wanted some of {", ".join(possible)}, got {", ".join(impossible)}.')
    if args.train and 'blocks' in (args.parts or ()):
        raise ValueError('--parts: wanted whole or backbone with --train, got blocks.')
    if args.train and not model.backbone.gate.learnable:
        gate = type(model.backbone.gate).__name__
        raise ValueError(f'--train: wanted a gate that learns, since others train packed alone, got {gate}.')


def main(args: Namespace) -> None:
    use_safe_loader()
    console = Console()
    with one_line_errors():
        check_record(args, args.config, args.checkpoint)
        cfg = load_config(args.config, args.cfg_options)
        seed = seed_of(cfg)
        torch.manual_seed(seed)
        model = build_gated_model(cfg, args.checkpoint, args.device)
        check_segmentor(model, cfg)
        check_args(args, model)
        torch.set_num_threads(args.threads)
        size = height_and_width(args.size or model.backbone.img_size)
        images, source = load_inputs(cfg, model, max(args.batch_sizes), size, args.images)

    phase, where = 'training' if args.train else 'inference', f'{size[0]}x{size[1]}'
    executions = args.executions or (model.backbone.train_executions if args.train else model.backbone.test_executions)
    how = dict(parts=args.parts or PARTS, train=args.train, device=args.device)
    results = {}
    for batch_size in args.batch_sizes:
        batch = images[:batch_size].to(args.device)
        with one_line_errors(), torch.no_grad(), foreign_errors(f'--size: in images of {where} pixels'):
            decode(model, size, model.backbone(batch))
            stated = state_decisions(model.backbone, batch, args.ratios, bool(args.checkpoint), seed)
        forms = make_forms(model.backbone, batch, stated, executions)
        progress = partial(track, description=f'batch size {batch_size}', console=console)
        results[batch_size] = time_forms(model, forms, size, args.repeats, **how, progress=progress)
        for part in PARTS:
            if rows := [row for row in results[batch_size] if row['model'] == part]:
                title = f'{part.capitalize()}, {phase}, batch size {batch_size}, {where}'
                console.print(make_table(rows, COLUMNS, title))
    clock = clock_of(args.device, args.threads)[1]
    notes = [f'{phase}, {source}, {where}, {clock}', *NOTES] + [TRAINING] * args.train
    if args.train and 'counterfactual' in executions:
        notes.append(SHARE.format(getattr(model.backbone, 'counterfactual_share', 1)))
    notes += [STEPS] * bool(model.backbone.between) + [UNTRAINED] * (not args.checkpoint)
    console.print(*notes, sep='\n')
    numbers = dict(phase=phase, clock=clock, images=source, size=size, batch_sizes=results, notes=notes)
    with one_line_errors():
        write_record(args.out, numbers, describe_run(vars(args), seed, args.device))
