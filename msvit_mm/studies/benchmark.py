"""Time a gated segmentor under stated decisions in every execution, beside its dense host: backbone, whole, blocks."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models import GatedModel
from ..ops.macs import count_macs
from .forms import Form
from .timing import clock_of, compare_calls, cpu_peak_mib, cuda_peak_mib, quartiles, share_outside

PARTS = ('whole', 'backbone', 'blocks')


def decode(model: GatedModel, size: tuple[int, int], features: tuple[Tensor, ...]) -> Tensor:
    """The second half of mmseg's ``encode_decode``, for features of any backbone, to logits of one size."""
    if model.with_neck:
        features = model.neck(features)
    return model.decode_head.predict(features, [dict(img_shape=size)], model.test_cfg)


def step(modules: list[nn.Module], form: Form, head: Callable | None, train: bool) -> None:
    """A call of the backbone, and of a head upon it; in training the gradients of the modules' parameters."""
    with torch.set_grad_enabled(train):
        outputs = form.backbone(form.images)
        outputs = [getattr(x, 'active', x) for x in outputs] if head is None else [head(outputs)]
        if train:
            loss = sum(x.square().mean() for x in outputs)
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            torch.autograd.grad(loss, parameters, allow_unused=True)


def parts_of(
    model: GatedModel, form: Form, size: tuple[int, int], train: bool
) -> dict[str, tuple[float, Callable[[], object]]]:
    """Multiply-adds in 1e9 per image, and a call, of each part of ``PARTS`` that a form can run alone."""
    head = partial(decode, model, size)
    heads: list[nn.Module] = [model.decode_head, *([model.neck] if model.with_neck else [])]
    form.backbone.eval()  # for the active tokens alone
    with torch.no_grad():
        features = form.backbone(form.images)
        head_gmacs = count_macs(head, features) / len(form.images) / 1e9
    form.backbone.train(train)
    parts: dict[str, tuple[float, Callable[[], object]]] = dict(
        whole=(form.gmacs + head_gmacs, partial(step, [form.backbone, *heads], form, head, train)),
        backbone=(form.gmacs, partial(step, [form.backbone], form, None, train)),
    )
    if form.layers is not None and not train:
        parts['blocks'] = form.layer_gmacs, torch.no_grad()(form.layers)
    return parts


def time_forms(
    model: GatedModel,
    forms: Iterable[Form],
    size: tuple[int, int],
    repeats: int,
    parts: Sequence[str] = PARTS,
    train: bool = False,
    device: str = 'cpu',
    progress: Callable[[range], Iterable[int]] = iter,
) -> list[dict]:
    """A row for each part of each form, timed in turns; the first form is the reference.

    Args:
        model: A segmentor over the forms' backbone.
        forms: All of one batch.
        size: (height, width) of the logits in pixels.
        repeats: Rounds that count.
        parts: Some of ``PARTS``.
        train: Time forward and backward.
        device: Whose clock and memory to read.
        progress: Wraps the range of rounds.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    calls: dict[tuple[str, str, str], Callable[[], object]] = {}
    references: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    spans: dict[tuple[str, str, str], Any] = {}
    for form in forms:
        for part, (gmacs, call) in parts_of(model, form, size, train).items():
            if part in parts:
                key = part, form.decisions, form.name
                calls[key] = call
                references[key] = next(other for other in calls if other[0] == part)
                rows[key] = dict(zip(('model', 'decisions', 'variant'), key, strict=True))
                rows[key] |= dict(num_tokens=form.num_tokens, gmacs=gmacs)
                if form.layers is not None and part == 'backbone' and not train:
                    spans[key] = form.span
    batch_size = len(form.images)
    all_gmacs = {key: row['gmacs'] for key, row in rows.items()}
    costs = compare_calls(calls, all_gmacs, references, clock_of(device, 1)[0], repeats, progress)
    for key, row in rows.items():
        row |= costs[key]
        row['throughput_ips'] = 1000 * batch_size / row['time_ms']
        row['peak_memory_mib'] = (cuda_peak_mib if device == 'cuda' else cpu_peak_mib)(calls[key])
        row['peak_memory_ratio'] = row['peak_memory_mib'] / rows[references[key]]['peak_memory_mib']
        if key in spans:
            shares = [share_outside(calls[key], *spans[key]) for _ in range(repeats)]
            row |= quartiles(np.array(shares), 'outside_blocks')
    return list(rows.values())
