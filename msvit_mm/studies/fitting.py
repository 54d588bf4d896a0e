"""A gate fitted before any training: to what labels, or the network that it is for, say of the regions of images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from ..backbones import GateOutput
from ..backbones.base import image_size
from ..evaluation.gate_content import area_under_curve
from ..losses import UtilityGateLoss, region_means
from ..models import GatedModel
from ..ops.tiling import regions_with_boundary

IGNORED = 255


class View(NamedTuple):
    """What a gate sees at once of one image, and what is known of it.

    Attributes:
        inputs: Normalised, shape (1, 3, H, W).
        sample: The data sample, its label map of the same size if there is one.
    """

    inputs: Tensor
    sample: BaseDataElement


Scores = tuple[Tensor, Tensor]  # how much a region should be fine (1, rows, cols), and where that is known


@torch.no_grad()
def take_view(model: GatedModel, batch: dict, scale: float = 1.0, generator: torch.Generator | None = None) -> View:
    """The one image of a batch as the model predicts it, resized; of sliding windows one at random."""
    batch = model.data_preprocessor(batch)
    inputs, sample = batch['inputs'], batch['data_samples'][0]
    labels = sample.gt_sem_seg.data[None].float() if 'gt_sem_seg' in sample else None
    if labels is not None:  # they may be larger than the resized image, and lack its padding
        labels = F.interpolate(labels, tuple(sample.img_shape[:2]), mode='nearest')
        (height, width), (rows, cols) = image_size(inputs), image_size(labels)
        labels = F.pad(labels, (0, width - cols, 0, height - rows), value=IGNORED)
    if scale != 1:
        size = tuple(round(side * scale) for side in image_size(inputs))
        inputs = F.interpolate(inputs, size, mode='bilinear', antialias=True)
        labels = labels if labels is None else F.interpolate(labels, size, mode='nearest')
    windows = model.windows(image_size(inputs))
    top, left, bottom, right = windows[int(torch.randint(len(windows), (), generator=generator))]
    if labels is not None:
        sample = sample.new()
        sample.gt_sem_seg = PixelData(data=labels[0, :, top:bottom, left:right].long())
    return View(inputs[:, :, top:bottom, left:right], sample)


def score_boundaries(model: GatedModel, view: View) -> Scores:
    """1 for regions that hold a class boundary of the label map."""
    boundary = regions_with_boundary(view.sample.gt_sem_seg.data[0], _region(model), IGNORED)[None]
    return boundary.float(), torch.ones_like(boundary)


def score_utilities(model: GatedModel, view: View) -> Scores:
    """What being fine wins of the task's loss, among random regions at either scale, as UtilityGateLoss has it."""
    backbone = model.backbone
    ratio = float(torch.rand(()))
    gate = backbone.state_decisions(backbone.random_decisions(ratio, view.inputs))
    with backbone.configured(gate=gate, execution='counterfactual'):
        backbone.training = True  # for both scales; its parts stay in evaluation
        features, choices = backbone.forward_gated(view.inputs)
        backbone.training = False
    regions = cast(GateOutput, choices)  # of a backbone of regions
    wins, drawn = model._utilities(features, regions, [view.sample])
    return (2 * cast(Tensor, regions.decisions) - 1) * wins, drawn


def score_uncertainty(model: GatedModel, view: View) -> Scores:
    """The entropy of the classes that the dense network predicts for the region's pixels."""
    size = image_size(view.inputs)
    seg_logits = model._decode(model.backbone(view.inputs, _fine(model, view)), [dict(img_shape=size)])
    seg_logits = F.interpolate(seg_logits, size, mode='bilinear', align_corners=False)
    entropy = -(seg_logits.softmax(1) * seg_logits.log_softmax(1)).sum(1)
    return _over_regions(entropy, _region(model))


def score_scales(model: GatedModel, view: View) -> Scores:
    """How far the features of the region are apart if all are fine and if all are coarse, relative to their size."""
    fine, region = _fine(model, view), _region(model)
    scores = []
    for x, y in zip(model.backbone(view.inputs, fine), model.backbone(view.inputs, 1 - fine), strict=True):
        side = region // _stride(model, x, view)
        if side:  # else a cell is larger than a region
            scores.append(_over_regions((x - y).square().mean(1) / x.square().mean(), side)[0])
    return torch.stack(scores).mean(0), torch.ones_like(scores[0], dtype=torch.bool)


TEACHERS: dict[str, Callable[[GatedModel, View], Scores]] = dict(
    boundary=score_boundaries, utility=score_utilities, uncertainty=score_uncertainty, scales=score_scales
)
LABELLED = ('boundary', 'utility')


def check_target(model: GatedModel, targets: Sequence[str]) -> None:
    """Check that a model can teach its gate these targets.

    Raises:
        ValueError: If its gate has no weights, or the model lacks what a target is taken from.
    """
    if not list(model.backbone.gate.parameters()):
        got = type(model.backbone.gate).__name__
        raise ValueError(f'gate: wanted one with weights to fit (ContextGate, ScaleGate, StaticGate), got {got}')
    if len(sizes := model.backbone.metainfo()['patch_sizes']) > 2:
        raise ValueError(f'gate: wanted one of two patch sizes, got one of {sizes}')
    if not hasattr(model, 'decode_head') and set(targets) & {'boundary', 'uncertainty'}:
        raise ValueError(f'--target {targets[0]}: wanted a segmentor, got {type(model).__name__}')
    if model.backbone.out_type != 'featmap' and 'scales' in targets:
        raise ValueError(f"--target scales: wanted out_type='featmap', got {model.backbone.out_type!r}")
    if getattr(model.backbone, 'gate_gradient', None) == 'mask' and 'utility' in targets:
        raise ValueError("--target utility: wanted gate_gradient='output', got 'mask'")


def fit_gate(
    model: GatedModel,
    images: Iterable[dict],
    targets: Sequence[str],
    coarse_ratio: float,
    batch_size: int = 8,
    steps: int = 500,
    lr: float = 2e-3,
    scales: Sequence[float] = (1.0, 0.85),
) -> list[float]:
    """Fit a gate whose weights can learn, in place, with everything else as it is.

    Regions should be fine where their score is above the quantile of ``coarse_ratio`` (:class:`UtilityGateLoss`, whose
    weights heed the distance from it), or where they hold a boundary: cross-entropy, of several targets the sum.

    Args:
        model: In evaluation mode.
        images: At least ``steps * batch_size`` batches of one image each, of any sizes.
        targets: Some of ``TEACHERS``.
        coarse_ratio: Wanted, in (0, 1).
        scales: Of the images; each batch draws one.

    Returns:
        The loss of each step.
    """
    gate, history = model.backbone.gate, []
    criteria = {name: UtilityGateLoss(coarse_ratio) for name in targets if name != 'boundary'}
    optimizer = torch.optim.AdamW(gate.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    images = iter(images)
    for _ in range(steps):
        scale = scales[int(torch.randint(len(scales), ()))]
        views = [take_view(model, next(images), scale) for _ in range(batch_size)]
        scores = {name: _concatenate([score(model, view, name) for view in views]) for name in targets}
        logits = torch.cat([gate(view.inputs).flatten() for view in views])
        losses = [_loss(logits, *scores[name], criteria.get(name)) for name in targets]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    return history


@torch.no_grad()
def judge_gate(
    model: GatedModel, images: Iterable[dict], targets: Sequence[str], coarse_ratio: float
) -> Mapping[str, float]:
    """AUC of a gate's logits against each target, on images; of scores against those above the ratio's quantile."""
    views = [take_view(model, image) for image in images]
    logits = torch.cat([model.backbone.gate(view.inputs).flatten() for view in views]).cpu().numpy()
    auc = {}
    for name in targets:
        scores, known = (x.cpu().numpy() for x in _concatenate([score(model, view, name) for view in views]))
        limit = 0.5 if name == 'boundary' else np.quantile(scores[known], coarse_ratio)
        auc[name] = area_under_curve(-logits[known], scores[known] > limit)
    return auc


@torch.no_grad()
def score(model: GatedModel, view: View, target: str) -> Scores:
    """What a target says of the regions of a view."""
    return TEACHERS[target](model, view)


def _loss(logits: Tensor, scores: Tensor, known: Tensor, criterion: UtilityGateLoss | None) -> Tensor:
    if criterion is None:
        return F.binary_cross_entropy_with_logits(logits, 1 - scores)
    return criterion(logits, scores, known)['loss_gate_utility']


def _concatenate(scores: Sequence[Scores]) -> Scores:
    values, known = zip(*scores, strict=True)
    return torch.cat([x.flatten() for x in values]), torch.cat([x.flatten() for x in known])


def _fine(model: GatedModel, view: View) -> Tensor:
    """Decisions under which all regions are fine, (1, rows, cols)."""
    return torch.zeros_like(model.backbone.gate(view.inputs))


def _region(model: GatedModel) -> int:
    size = model.backbone.region_size
    assert size is not None
    return size


def _stride(model: GatedModel, features: Tensor, view: View) -> int:
    """Side in pixels of a cell of feature maps: a fine patch, or that doubled."""
    backbone: Any = model.backbone
    strides = (backbone.patch_size << i for i in range(16))
    (height, width), size = image_size(view.inputs), image_size(features)
    return next(stride for stride in strides if (-(-height // stride), -(-width // stride)) == size)


def _over_regions(values: Tensor, size: int) -> Scores:
    means = region_means(values, torch.ones_like(values, dtype=torch.bool), size)
    return means, torch.ones_like(means, dtype=torch.bool)
