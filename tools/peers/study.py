"""Time packed MSViT beside the peers: what `tools/benchmark_peers.py` does with its arguments."""

from argparse import Namespace
from functools import partial

import torch
from rich.console import Console
from rich.progress import track

from msvit_mm.cli.config import load_config
from msvit_mm.cli.errors import one_line_errors
from msvit_mm.cli.images import load_inputs
from msvit_mm.cli.machine import choose_device
from msvit_mm.cli.models import build_gated_model
from msvit_mm.cli.records import (
    COST_COLUMNS,
    Column,
    check_record,
    describe_run,
    make_table,
    write_record,
)
from msvit_mm.studies.timing import clock_of

from . import DENSE, SEED, algm, commit_of, count_gmacs, time_systems, tome
from .own import merging_systems, own_systems

CONFIGS = {'cells': 'msvit_segmenter_ade20k', 'tokens': 'msvit_mixedsegmenter_ade20k'}
COLUMNS = [Column('system', '{system}'), Column('setting', '{words}'), *COST_COLUMNS]
NOTES = [
    'Random weights: times and multiply-adds mean something, the choice of merged tokens and the outputs do not.',
    'tokens: patch tokens that enter the feed-forward networks, mean over layers and images. ms: per batch.',
    'GMACs: per image, counted on the timed call, matrix products alone; 1 MAC = 1 FLOP, as the papers count.',
    f'time / dense: median and quartiles of the ratio to the {DENSE}, round by round.',
    'efficiency = (dense time / time) / (dense MACs / MACs); 1: all saved MACs became time.',
    'packed, cells or tokens: what the backbone returns and a decoder works on.',
    'merging, tokens: all fine, a share merges before layers 1 and 5; packed, merging: behind half the coarse ratio.',
    'Their share: of the GMACs of the backbone nearest to packed, tokens.',
    'ToMe: r tokens merge in each layer, r of the GMACs nearest to packed, tokens; merged tokens are not restored.',
    'ALGM: layers 1 and 5; threshold of the GMACs nearest to packed, tokens, found on these very images.',
    'ALGM in a batch: all images merge as many tokens as the one that would merge fewest, as in its code.',
    'shipped: the code of the peer. fused: its softmax(QK)V by scaled_dot_product_attention, as all others have it.',
]


def check_args(args: Namespace) -> None:
    if not (args.tome or args.algm):
        raise ValueError(
            'peers: wanted --tome PATH, a clone of facebookresearch/ToMe, --algm PATH, one of tue-mps/algm-segmenter, '
            'or both, got neither.'
        )
    if args.size % 32:
        raise ValueError(f'--size: wanted a positive multiple of 32, got {args.size}.')


def print_table(rows: list[dict], title: str, console: Console) -> None:
    words = [', '.join(f'{name} {value:.4g}' for name, value in row['setting'].items()) for row in rows]
    rows = [row | dict(words=text) for row, text in zip(rows, words, strict=True)]
    console.print(make_table(rows, COLUMNS, title))


@torch.no_grad()
def main(args: Namespace) -> None:
    args.device = choose_device(args.device)
    console = Console()
    with one_line_errors():
        check_args(args)
        check_record(args, args.images)
        tome_modules = args.tome and tome.import_tome(args.tome)
        algm_modules = args.algm and algm.import_algm(args.algm, args.device)
        torch.manual_seed(SEED)
        torch.set_num_threads(args.threads)
        cfgs = {words: load_config(name) for words, name in CONFIGS.items()}
        models = {words: build_gated_model(cfg, None, args.device) for words, cfg in cfgs.items()}
        size = (args.size, args.size)
        images, source = load_inputs(cfgs['cells'], models['cells'], max(args.batch_sizes), size, args.images)

    clock, where = clock_of(args.device, args.threads)[1], f'{args.size}x{args.size}'
    results = {}
    for batch_size in args.batch_sizes:
        batch = images[:batch_size].to(args.device)
        systems = list(own_systems(models, batch, args.ratio))
        targets = {s.part: count_gmacs(s.call, batch_size) for s in systems if s.name == 'packed, tokens'}
        systems += merging_systems(models['tokens'], batch, args.ratio, targets['backbone'])
        systems += tome.tome_systems(tome_modules, batch, targets['backbone']) if args.tome else []
        systems += algm.algm_systems(algm_modules, batch, targets['whole']) if args.algm else []
        progress = partial(track, description=f'batch size {batch_size}', console=console)
        results[batch_size] = time_systems(systems, batch_size, args.device, args.repeats, progress)
        for part in ('backbone', 'whole'):
            rows = [row for row in results[batch_size] if row['part'] == part]
            print_table(rows, f'{part.capitalize()}, inference, batch size {batch_size}, {where}', console)
    console.print(f'{source}, {where}, {clock}', *NOTES, sep='\n')
    peers = {name: commit_of(path) for name, path in (('tome', args.tome), ('algm', args.algm)) if path}
    numbers = dict(clock=clock, images=source, peers=peers, batch_sizes=results, notes=NOTES)
    options = vars(args) | dict(config=list(CONFIGS.values()))
    with one_line_errors():
        write_record(args.out, numbers, describe_run(options, SEED, args.device))
