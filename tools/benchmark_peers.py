"""Time packed MSViT beside two token-merging peers, each by its own code, at equal multiply-adds.

    git clone https://github.com/facebookresearch/ToMe && git -C ToMe checkout af95e4b
    git clone https://github.com/tue-mps/algm-segmenter && git -C algm-segmenter checkout 674eaa2
    python tools/benchmark_peers.py --tome ToMe --algm algm-segmenter --out peers.json

ToMe needs timm, ALGM timm and einops. All networks are ViT-S of random weights; a peer that is not given is left out.
"""

import copy
import importlib
import json
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from msvit_mm.engine.inference import build_gated_model, describe_run, load_inputs
from msvit_mm.engine.launch import one_line_errors
from msvit_mm.engine.timing import compare, cuda_ms, interleave, process_ms
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from msvit_mm.models.variants import make_variants, random_decisions
from msvit_mm.ops.macs import count_macs

FOLDER = Path(__file__).parents[1] / 'configs'
CONFIGS = {'cells': 'msvit_segmenter_ade20k.py', 'tokens': 'msvit_mixedsegmenter_ade20k.py'}
DENSE = 'dense host'
ALGM_LAYERS = [1, 5]  # as their README has it for ViT-S
SEED = 0
NOTES = [
    'Random weights: times and multiply-adds mean something, the choice of merged tokens and the outputs do not.',
    'tokens: patch tokens that enter the feed-forward networks, mean over layers and images. ms: per batch.',
    'GMACs: per image, counted on the timed call, matrix products alone; 1 MAC = 1 FLOP, as the papers count.',
    f'time / dense: median and quartiles of the ratio to the {DENSE}, round by round.',
    'efficiency = (dense time / time) / (dense MACs / MACs); 1: all saved MACs became time.',
    'packed, cells or tokens: what the backbone returns and a decoder works on.',
    'ToMe: r tokens merge in each layer, r of the GMACs nearest to packed, tokens; merged tokens are not restored.',
    'ALGM: layers 1 and 5; threshold of the GMACs nearest to packed, tokens, found on these very images.',
    'ALGM in a batch: all images merge as many tokens as the one that would merge fewest, as in its code.',
    'shipped: the code of the peer. fused: its softmax(QK)V by scaled_dot_product_attention, as all others have it.',
]


class System(NamedTuple):
    """What is timed: the part of a segmentor that it is, its name, its knob, a call, its tokens (see the notes)."""

    part: str
    name: str
    setting: dict[str, float]
    call: Callable[[], object]
    num_tokens: float


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--tome', metavar='PATH', help='clone of facebookresearch/ToMe')
    parser.add_argument('--algm', metavar='PATH', help='clone of tue-mps/algm-segmenter')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[1, 4])
    parser.add_argument('--ratio', type=float, default=0.667, help='coarse ratio; .667: half of the tokens')
    parser.add_argument('--size', type=int, default=512, help='side of the images in pixels, a multiple of 32')
    parser.add_argument('--images', metavar='FOLDER', help="default the config's test images, or else smoothed noise")
    parser.add_argument('--repeats', type=int, default=10, help='rounds, after two of warm-up')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, default=1, help='on the CPU')
    parser.add_argument('--out', help='JSON file of the table')
    parser.set_defaults(config=[f'configs/{name}' for name in CONFIGS.values()], checkpoint=None)
    return parser.parse_args()


def check_args(args: Namespace) -> None:
    if min([*args.batch_sizes, args.repeats, args.threads]) < 1:
        raise ValueError('--batch-sizes, --repeats and --threads: wanted numbers >= 1.')
    if args.size < 32 or args.size % 32:
        raise ValueError(f'--size: wanted a positive multiple of 32, got {args.size}.')
    if not 0 <= args.ratio <= 1:
        raise ValueError(f'--ratio: wanted a number in [0, 1], got {args.ratio}.')


def import_peer(path: str, repository: str, roots: Sequence[str], modules: Sequence[str]) -> list[ModuleType]:
    """Modules of a clone, whose packages lie in folders ``roots`` of it."""
    first = modules[0].replace('.', '/') + '.py'
    if not any(Path(path, root, first).is_file() for root in roots):
        raise ValueError(f"'{path}': wanted a clone of {repository}, got a folder without {first}, or none.")
    sys.path[:0] = [str(Path(path, root).resolve()) for root in roots]
    try:
        return [importlib.import_module(name) for name in modules]
    except ImportError as error:
        raise ValueError(f"'{path}': wanted {repository} and the packages that it needs, got: {error}.") from error


def import_tome(path: str) -> list[ModuleType]:
    return import_peer(path, 'facebookresearch/ToMe', ['.'], ['tome.patch.timm', 'timm'])


def import_algm(path: str, device: str) -> list[ModuleType]:
    """Only what builds the network: the rest of ``segm`` wants mmcv and mmseg of another age."""
    names = ['segm.model.vit', 'segm.model.decoder', 'segm.model.segmenter', 'algm.patch']
    modules = import_peer(path, 'tue-mps/algm-segmenter', ['.', 'algm'], names)
    if device == 'cpu':
        torch.Tensor.cuda = torch.Tensor.to  # their `.cuda(x.device)`, on the threshold, takes no CPU
    return modules


def own_systems(
    models: dict[str, nn.Module], cfgs: dict[str, Config], images: Tensor, ratio: float
) -> Iterator[System]:
    """The dense host first, then packed MSViT; each alone and under the mask transformer."""
    side = images.shape[-1] // models['cells'].backbone.coarse_patch_size
    decisions = random_decisions(ratio, (len(images), side, side), torch.Generator().manual_seed(SEED)).to(images)
    setting = {'coarse ratio': decisions.mean().item()}
    for words, model in models.items():
        config = cfgs[words].model.backbone
        dense, packed, _ = make_variants(model.backbone, config, images, {'random': decisions}, ['packed'])
        systems = {f'packed, {words}': (packed, setting)}
        if words == 'cells':
            systems = {DENSE: (dense, {})} | systems
        for name, (variant, knob) in systems.items():
            variant.backbone.eval()
            backbone = partial(variant.backbone, images)
            yield System('backbone', name, knob, backbone, variant.num_tokens)
            yield System('whole', name, knob, partial(segment, model, backbone, images.shape[-2:]), variant.num_tokens)


def segment(model: nn.Module, backbone: Callable[[], tuple], size: tuple[int, int]) -> Tensor:
    """Class scores at the size of the images."""
    return model.decode_head.predict(backbone(), [dict(img_shape=size)], model.test_cfg)


def tome_systems(modules: list[ModuleType], images: Tensor, target: float) -> Iterator[System]:
    """timm's DeiT-S, and ToMe on it at these GMACs per image, with the proportional attention that it ships with."""
    tome, timm = modules
    # Their patch, written for timm 0.4, fits 1.0 as it is: it looks for `drop_path1` itself, and what its layers leave
    # out of newer ones (`ls1`, `q_norm`, `gate`) does nothing in DeiT-S.
    dense = timm.create_model('deit_small_patch16_224', img_size=images.shape[-1], num_classes=0).to(images).eval()
    shipped, fused = copy.deepcopy(dense), copy.deepcopy(dense)
    for model in (shipped, fused):
        tome.apply_patch(model)
    fuse(fused.blocks, tome_attention)

    def merge(r: float) -> float:
        shipped.r = fused.r = round(r)
        return count_gmacs(partial(fused, images[:1]), 1)  # the same for all images

    r = match_gmacs(merge, target, none=0, most=dense.patch_embed.num_patches / 2)  # no layer merges more than half
    merge(r)
    for name, model, setting in (
        ('timm, dense', dense, {}),
        ('ToMe, shipped', shipped, {'r': round(r)}),
        ('ToMe, fused', fused, {'r': round(r)}),
    ):
        call = partial(model, images)
        yield System('backbone', name, setting, call, mean_tokens(model.blocks, call))


def algm_systems(modules: list[ModuleType], images: Tensor, target: float) -> Iterator[System]:
    """Segmenter ViT-S with its mask transformer, 150 classes, and ALGM on it at these GMACs per image."""
    vit, decoder, segmenter, patch = modules
    shape = dict(patch_size=16, d_model=384, d_ff=1536, n_heads=6)
    encoder = vit.VisionTransformer(image_size=tuple(images.shape[-2:]), n_layers=12, n_cls=1000, **shape)
    head = decoder.MaskTransformer(n_cls=150, d_encoder=384, n_layers=2, drop_path_rate=0.0, dropout=0.0, **shape)
    dense = segmenter.Segmenter(encoder, head, n_cls=150).to(images).eval()
    dense_fused, shipped, fused = (copy.deepcopy(dense) for _ in range(3))
    with redirect_stdout(sys.stderr):  # the patch prints its layers
        for model in (shipped, fused):
            patch.algm_segmenter_patch(model, ALGM_LAYERS, trace_source=True)
    for model in (dense_fused, fused):
        fuse([*model.encoder.blocks, *model.decoder.blocks], algm_attention)

    def merge(threshold: float) -> float:
        shipped.encoder.threshold = fused.encoder.threshold = threshold
        return count_gmacs(partial(fused, images), len(images))

    threshold = match_gmacs(merge, target, none=1, most=-1)  # a cosine similarity
    merge(threshold)
    for name, model, setting in (
        ('Segmenter, shipped', dense, {}),
        ('Segmenter, fused', dense_fused, {}),
        ('ALGM, shipped', shipped, {'threshold': threshold}),
        ('ALGM, fused', fused, {'threshold': threshold}),
    ):
        call = partial(model, images)
        yield System('whole', name, setting, call, mean_tokens(model.encoder.blocks, call))


def fused_attention(layer: nn.Module, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Self-attention of a peer's attention layer in evaluation mode, by the fused kernel.

    Args:
        layer: Has ``qkv``, ``proj``, and ``num_heads`` or ``heads``.
        x: Shape (B, N, C).
        size: Patches that each token stands for, whose logarithm adds to its scores as a key, shape (B, N, 1).

    Returns:
        Shape (B, N, C), and the keys (B, heads, N, C / heads).
    """
    heads = layer.num_heads if hasattr(layer, 'num_heads') else layer.heads
    # (B, N, 3 * C) -> three of (B, heads, N, C / heads)
    query, key, value = layer.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    bias = None if size is None else size.log().transpose(1, 2).unsqueeze(1)  # (B, N, 1) -> (B, 1, 1, N)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return layer.proj(attended.transpose(1, 2).flatten(2)), key


def tome_attention(layer: nn.Module, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """With ToMe's metric of similarity, the mean of the keys over the heads."""
    x, key = fused_attention(layer, x, size)
    return x, key.mean(1)


def algm_attention(layer: nn.Module, x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As in ALGM's and Segmenter's code: blind to sizes, and nobody reads the second output."""
    return fused_attention(layer, x)


def fuse(blocks: Sequence[nn.Module], forward: Callable) -> None:
    """Give the attention layers of these blocks this forward function."""
    for block in blocks:
        block.attn.forward = partial(forward, block.attn)


def match_gmacs(gmacs: Callable[[float], float], target: float, none: float, most: float) -> float:
    """The setting of the GMACs nearest to the target, by bisection between no merging and the most of it.

    Args:
        gmacs: Of a setting; they fall from ``none`` to ``most``.
    """
    tried = {}
    for _ in range(20):
        middle = (none + most) / 2
        tried[middle] = gmacs(middle)
        if abs(tried[middle] / target - 1) < 1e-3:
            break
        none, most = (middle, most) if tried[middle] > target else (none, middle)
    return min(tried, key=lambda setting: abs(tried[setting] - target))


def count_gmacs(call: Callable[[], object], batch_size: int) -> float:
    return count_macs(call) / batch_size / 1e9


def mean_tokens(blocks: Sequence[nn.Module], call: Callable[[], object]) -> float:
    """Patch tokens that enter the feed-forward networks in a call, mean over the blocks."""
    seen = []
    hooks = [block.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1] - 1)) for block in blocks]
    call()
    for hook in hooks:
        hook.remove()
    return sum(seen) / len(seen)


def time_systems(systems: list[System], batch_size: int, args: Namespace, console: Console) -> list[dict]:
    """A row for each system; the dense host of its part is the reference."""
    progress = partial(track, description=f'batch size {batch_size}', console=console)
    calls = {system[:2]: system.call for system in systems}
    times = interleave(calls, cuda_ms if args.device == 'cuda' else process_ms, args.repeats, progress=progress)
    gmacs = {key: count_gmacs(call, batch_size) for key, call in calls.items()}
    rows = []
    for part, name, setting, _, num_tokens in systems:
        row = dict(part=part, system=name, setting=setting, num_tokens=num_tokens, gmacs=gmacs[part, name])
        reference = part, DENSE
        rows.append(row | compare(times[part, name], times[reference], gmacs[part, name] / gmacs[reference]))
    return rows


def format_table(rows: list[dict], title: str) -> Table:
    columns = ['system', 'setting', 'tokens', 'GMACs', 'ms', 'time / dense', 'efficiency']
    table = Table(*columns, title=title, box=None, pad_edge=False, collapse_padding=True)
    for row in rows:
        setting = ', '.join(f'{name} {value:.4g}' for name, value in row['setting'].items())
        ratio = '{time_ratio:.2f} ({time_ratio_q1:.2f}-{time_ratio_q3:.2f})'.format(**row)
        numbers = [f'{row["num_tokens"]:.0f}', f'{row["gmacs"]:.4g}', f'{row["time_ms"]:.4g}', ratio]
        table.add_row(row['system'], setting, *numbers, f'{row["efficiency"]:.2f}')
    return table


def commit_of(path: str) -> str:
    return subprocess.run(['git', '-C', path, 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()


@torch.no_grad()
def main() -> None:
    args = parse_args()
    console = Console()
    with one_line_errors():
        check_args(args)
        tome = args.tome and import_tome(args.tome)
        algm = args.algm and import_algm(args.algm, args.device)
        torch.manual_seed(SEED)
        torch.set_num_threads(args.threads)
        cfgs = {words: Config.fromfile(FOLDER / name) for words, name in CONFIGS.items()}
        models = {words: build_gated_model(cfg, None, args.device) for words, cfg in cfgs.items()}
        size = (args.size, args.size)
        images, source = load_inputs(cfgs['cells'], models['cells'], max(args.batch_sizes), size, args.images)

    peers = {name: commit_of(path) for name, path in (('tome', args.tome), ('algm', args.algm)) if path}
    clock = 'CUDA events' if args.device == 'cuda' else f'process time, {args.threads} thread(s)'
    where = f'{args.size}x{args.size}'
    results = {}
    for batch_size in args.batch_sizes:
        batch = images[:batch_size].to(args.device)
        systems = list(own_systems(models, cfgs, batch, args.ratio))
        targets = {s.part: count_gmacs(s.call, batch_size) for s in systems if s.name == 'packed, tokens'}
        systems += tome_systems(tome, batch, targets['backbone']) if tome else []
        systems += algm_systems(algm, batch, targets['whole']) if algm else []
        results[batch_size] = time_systems(systems, batch_size, args, console)
        for part in ('backbone', 'whole'):
            rows = [row for row in results[batch_size] if row['part'] == part]
            console.print(format_table(rows, f'{part.capitalize()}, inference, batch size {batch_size}, {where}'))
    console.print(f'{source}, {where}, {clock}', *NOTES, sep='\n')
    if args.out:
        record = dict(clock=clock, images=source, peers=peers, batch_sizes=results, notes=NOTES)
        Path(args.out).write_text(json.dumps(record | describe_run(args, SEED, args.device), indent=2))


if __name__ == '__main__':
    main()
