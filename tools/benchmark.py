"""Time a gated segmentor against its dense host on distinct images under stated decisions.

python tools/benchmark.py CONFIG --batch-sizes 1 4 --ratios 0.5 --out benchmark.json
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from msvit_mm.checkpoints import use_safe_loader
from msvit_mm.engine.inference import build_gated_model, describe_run, load_inputs
from msvit_mm.engine.launch import add_common_arguments, load_config, one_line_errors
from msvit_mm.engine.timing import (
    compare,
    cpu_peak_mib,
    cuda_ms,
    cuda_peak_mib,
    interleave,
    process_ms,
    quartiles,
    share_outside,
)
from msvit_mm.models.variants import EXECUTIONS, Variant, executions_of, make_variants, state_decisions
from msvit_mm.ops.macs import count_macs

NOTES = [
    'tokens and GMACs: mean per image; ms: per batch. 1 MAC = 1 FLOP, as the papers count.',
    'time / dense: median and quartiles of the ratio to the dense model, round by round.',
    'efficiency = (dense time / time) / (dense MACs / MACs of the active tokens); 1: all saved MACs became time.',
    'outside blocks: share of the backbone time that gate, embeddings, packing and scatter take, not the blocks.',
    'smaller image: the dense model at the size that gives as many tokens.',
]
RATIOS = 'of random decisions: coarse ratios, or costs of routes relative to PVTv2'
PARTS = ('whole', 'backbone', 'blocks')
TRAINING = 'Loss: mean square of features or logits, heads in evaluation mode.'
SHARE = 'Counterfactual share {:g}.'
UNTRAINED = 'No checkpoint: random weights, and random decisions alone.'


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help="adds the gate's own decisions")
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[1, 4])
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help="default the backbone's img_size")
    parser.add_argument('--ratios', type=float, nargs='+', default=[0.25, 0.5, 0.75], help=RATIOS)
    parser.add_argument('--executions', nargs='+', choices=EXECUTIONS, help='default all')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS, help='blocks: in inference alone')
    parser.add_argument('--train', action='store_true', help='time forward and backward')
    parser.add_argument('--repeats', type=int, default=10, help='rounds, after two of warm-up')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, default=1, help='on the CPU')
    parser.add_argument('--out', help='JSON file of the table')
    add_common_arguments(parser)
    return parser.parse_args()


def check_args(args: Namespace, model: nn.Module) -> None:
    if not hasattr(model, 'decode_head'):
        raise ValueError(f"config '{args.config}': wanted a segmentor, got {type(model).__name__}.")
    if min([*args.batch_sizes, *(args.size or ()), args.repeats, args.threads]) < 1:
        raise ValueError('--batch-sizes, --size, --repeats and --threads: wanted numbers >= 1.')
    possible = executions_of(model.backbone, args.train)
    if impossible := [name for name in args.executions or () if name not in possible]:
        raise ValueError(f'--executions: wanted some of {", ".join(possible)}, got {", ".join(impossible)}.')
    if args.train and not model.backbone.gate.learnable:
        gate = type(model.backbone.gate).__name__
        raise ValueError(f'--train: wanted a gate that learns, since others train packed alone, got {gate}.')


def decode(model: nn.Module, size: tuple[int, int], features: tuple[Tensor, ...]) -> Tensor:
    """The second half of mmseg's ``encode_decode``, for features of any backbone, to logits of one size."""
    if model.with_neck:
        features = model.neck(features)
    return model.decode_head.predict(features, [dict(img_shape=size)], model.test_cfg)


def step(modules: list[nn.Module], variant: Variant, head: partial | None, train: bool) -> None:
    """A call of the backbone, and of a head upon it; in training the gradients of the modules' parameters."""
    with torch.set_grad_enabled(train):
        outputs = variant.backbone(variant.images)
        outputs = [getattr(x, 'active', x) for x in outputs] if head is None else [head(outputs)]
        if train:
            loss = sum(x.square().mean() for x in outputs)
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            torch.autograd.grad(loss, parameters, allow_unused=True)


def time_variants(
    model: nn.Module, variants: Iterable[Variant], size: tuple[int, int], args: Namespace, console: Console
) -> list[dict]:
    """Rows of backbone, whole model and, in inference, blocks of every variant; the first variant is the reference."""
    head = partial(decode, model, size)
    heads = [model.decode_head, *([model.neck] if model.with_neck else [])]
    rows, steps, layers, reference = {}, {}, {}, None
    for variant in variants:
        reference = reference or (variant.decisions, variant.name)
        variant.backbone.eval()  # for the active tokens alone
        with torch.no_grad():
            features = variant.backbone(variant.images)
            head_gmacs = count_macs(head, features) / len(variant.images) / 1e9
        variant.backbone.train(args.train)
        parts = dict(
            backbone=(variant.gmacs, partial(step, [variant.backbone], variant, None, args.train)),
            whole=(variant.gmacs + head_gmacs, partial(step, [variant.backbone, *heads], variant, head, args.train)),
        )
        if variant.blocks and not args.train:
            parts['blocks'] = variant.block_gmacs, torch.no_grad()(variant.blocks)
        for part in [part for part in args.parts if part in parts]:
            key = part, variant.decisions, variant.name
            gmacs, steps[key] = parts[part]
            rows[key] = dict(zip(('model', 'decisions', 'variant'), key, strict=True))
            rows[key] |= dict(num_tokens=variant.num_tokens, gmacs=gmacs)
            if variant.blocks and part == 'backbone' and not args.train:
                layers[key] = getattr(variant.backbone, 'backbone', variant.backbone).layers

    batch_size, on_gpu = len(variant.images), args.device == 'cuda'
    progress = partial(track, description=f'batch size {batch_size}', console=console)
    times = interleave(steps, cuda_ms if on_gpu else process_ms, args.repeats, progress=progress)
    for key, row in rows.items():
        dense = key[0], *reference
        row |= compare(times[key], times[dense], row['gmacs'] / rows[dense]['gmacs'])
        row['throughput_ips'] = 1000 * batch_size / row['time_ms']
        row['peak_memory_mib'] = (cuda_peak_mib if on_gpu else cpu_peak_mib)(steps[key])
        row['peak_memory_ratio'] = row['peak_memory_mib'] / rows[dense]['peak_memory_mib']
        if key in layers:
            first, last = layers[key][0].ln1, layers[key][-1].ffn
            shares = [share_outside(steps[key], first, last) for _ in range(args.repeats)]
            row |= quartiles(np.array(shares), 'outside_blocks')
    return list(rows.values())


def format_table(rows: list[dict], title: str) -> Table:
    columns = ['decisions', 'variant', 'tokens', 'GMACs', 'ms', 'time / dense', 'efficiency', 'MiB', 'MiB / dense']
    columns += ['outside blocks'] if 'outside_blocks' in rows[0] else []
    table = Table(*columns, title=title, box=None, pad_edge=False, collapse_padding=True)
    for row in rows:
        ratio = '{time_ratio:.2f} ({time_ratio_q1:.2f}-{time_ratio_q3:.2f})'.format(**row)
        numbers = [f'{row["num_tokens"]:.0f}', f'{row["gmacs"]:.4g}', f'{row["time_ms"]:.4g}', ratio]
        numbers.append(f'{row["efficiency"]:.2f}')
        numbers += [f'{row["peak_memory_mib"]:.3g}', f'{row["peak_memory_ratio"]:.2f}']
        numbers += [f'{row["outside_blocks"]:.1%}'] if 'outside_blocks' in row else []
        table.add_row(row['decisions'], row['variant'], *numbers)
    return table


def main() -> None:
    args = parse_args()
    use_safe_loader()
    console = Console()
    with one_line_errors():
        cfg = load_config(args)
        seed = cfg.get('randomness', {}).get('seed') or 0
        torch.manual_seed(seed)
        model = build_gated_model(cfg, args.checkpoint, args.device)
        check_args(args, model)
        torch.set_num_threads(args.threads)
        size = tuple(args.size or model.backbone.img_size)
        images, source = load_inputs(cfg, model, max(args.batch_sizes), size)

    possible = executions_of(model.backbone, args.train)
    phase = 'training' if args.train else 'inference'
    clock = 'CUDA events' if args.device == 'cuda' else f'process time, {args.threads} thread(s)'
    where = f'{size[0]}x{size[1]}'
    notes = [f'{phase}, {source}, {where}, {clock}', *NOTES]
    if args.train:
        notes.append(TRAINING)
        notes += [SHARE.format(model.backbone.counterfactual_share)] if 'counterfactual' in possible else []
    if not args.checkpoint:
        notes.append(UNTRAINED)
    executions = args.executions or possible
    results = {}
    for batch_size in args.batch_sizes:
        batch = images[:batch_size].to(args.device)
        with one_line_errors():
            choices = state_decisions(model.backbone, batch, args.ratios, bool(args.checkpoint), seed)
        variants = make_variants(model.backbone, cfg.model.backbone, batch, choices, executions)
        results[batch_size] = time_variants(model, variants, size, args, console)
        for part in PARTS:
            if rows := [row for row in results[batch_size] if row['model'] == part]:
                console.print(format_table(rows, f'{part.capitalize()}, {phase}, batch size {batch_size}, {where}'))
    console.print(*notes, sep='\n')
    if args.out:
        record = dict(phase=phase, clock=clock, images=source, size=size, batch_sizes=results, notes=notes)
        Path(args.out).write_text(json.dumps(record | describe_run(args, seed, args.device), indent=2))


if __name__ == '__main__':
    main()
