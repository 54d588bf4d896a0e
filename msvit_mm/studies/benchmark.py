"""Time a gated segmentor under stated decisions in every execution, beside its dense host: backbone, whole, blocks."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..ops.macs import count_macs
from .settings import Variant
from .timing import clock_of, compare_calls, cpu_peak_mib, cuda_peak_mib, quartiles, share_outside

PARTS = ('whole', 'backbone', 'blocks')


def decode(model: nn.Module, size: tuple[int, int], features: tuple[Tensor, ...]) -> Tensor:
    """The second half of mmseg's ``encode_decode``, for features of any backbone, to logits of one size."""
    if model.with_neck:
        features = model.neck(features)
    return model.decode_head.predict(features, [dict(img_shape=size)], model.test_cfg)


def step(modules: list[nn.Module], variant: Variant, head: Callable | None, train: bool) -> None:
    """A call of the backbone, and of a head upon it; in training the gradients of the modules' parameters."""
    with torch.set_grad_enabled(train):
        outputs = variant.backbone(variant.images)
        outputs = [getattr(x, 'active', x) for x in outputs] if head is None else [head(outputs)]
        if train:
            loss = sum(x.square().mean() for x in outputs)
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            torch.autograd.grad(loss, parameters, allow_unused=True)


def parts_of(
    model: nn.Module, variant: Variant, size: tuple[int, int], train: bool
) -> dict[str, tuple[float, Callable[[], object]]]:
    """Multiply-adds in 1e9 per image, and a call, of each part of ``PARTS`` that a variant can run alone."""
    head = partial(decode, model, size)
    heads = [model.decode_head, *([model.neck] if model.with_neck else [])]
    variant.backbone.eval()  # for the active tokens alone
    with torch.no_grad():
        features = variant.backbone(variant.images)
        head_gmacs = count_macs(head, features) / len(variant.images) / 1e9
    variant.backbone.train(train)
    parts = dict(
        whole=(variant.gmacs + head_gmacs, partial(step, [variant.backbone, *heads], variant, head, train)),
        backbone=(variant.gmacs, partial(step, [variant.backbone], variant, None, train)),
    )
    if variant.blocks and not train:
        parts['blocks'] = variant.block_gmacs, torch.no_grad()(variant.blocks)
    return parts


def time_variants(
    model: nn.Module,
    variants: Iterable[Variant],
    size: tuple[int, int],
    repeats: int,
    parts: Sequence[str] = PARTS,
    train: bool = False,
    device: str = 'cpu',
    progress: Callable[[range], object] = iter,
) -> list[dict]:
    """A row for each part of each variant, timed in turns; the first variant is the reference.

    Args:
        model: A segmentor over the variants' backbone.
        variants: All of one batch.
        size: (height, width) of the logits in pixels.
        repeats: Rounds that count.
        parts: Some of ``PARTS``.
        train: Time forward and backward.
        device: Whose clock and memory to read.
        progress: Wraps the range of rounds.
    """
    rows, calls, layers, references = {}, {}, {}, {}
    for variant in variants:
        for part, (gmacs, call) in parts_of(model, variant, size, train).items():
            if part in parts:
                key = part, variant.decisions, variant.name
                calls[key] = call
                references[key] = next(other for other in calls if other[0] == part)
                rows[key] = dict(zip(('model', 'decisions', 'variant'), key, strict=True))
                rows[key] |= dict(num_tokens=variant.num_tokens, gmacs=gmacs)
                if variant.blocks and part == 'backbone' and not train:
                    layers[key] = getattr(variant.backbone, 'backbone', variant.backbone).layers
    batch_size = len(variant.images)
    gmacs = {key: row['gmacs'] for key, row in rows.items()}
    costs = compare_calls(calls, gmacs, references, clock_of(device, 1)[0], repeats, progress)
    for key, row in rows.items():
        row |= costs[key]
        row['throughput_ips'] = 1000 * batch_size / row['time_ms']
        row['peak_memory_mib'] = (cuda_peak_mib if device == 'cuda' else cpu_peak_mib)(calls[key])
        row['peak_memory_ratio'] = row['peak_memory_mib'] / rows[references[key]]['peak_memory_mib']
        if key in layers:
            first, last = layers[key][0].ln1, layers[key][-1].ffn
            shares = [share_outside(calls[key], first, last) for _ in range(repeats)]
            row |= quartiles(np.array(shares), 'outside_blocks')
    return list(rows.values())
