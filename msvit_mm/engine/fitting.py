"""A gate fitted before any training: to what labels, or the network that it is for, say of the regions of images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from ..backbones import GateOutput
from ..backbones.base import image_size
from ..evaluation.gate_content import area_under_curve
from ..gates import node_sides
from ..losses import UtilityGateLoss, region_means
from ..models import GatedModel
from ..ops.checks import check_in
from ..ops.tiling import Maps, as_maps, map_scales, per_scale, regions_with_boundary
from .calibration import asked_ratios, calibrate_gate, training_images
from .random_state import get_random_states, set_random_states
from .schedule import unwrap

IGNORED = 255


class View(NamedTuple):
    """What a gate sees at once of one image, and what is known of it.

    Attributes:
        inputs: Normalised, shape (1, 3, H, W).
        sample: The data sample, its label map of the same size if there is one.
    """

    inputs: Tensor
    sample: BaseDataElement


Scores = tuple[Maps, Maps]  # how much a node should be split (1, rows, cols), and where that is known, like decisions


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
    """1 for nodes that hold a class boundary of the label map."""
    labels = view.sample.gt_sem_seg.data[0]
    boundary = as_maps([regions_with_boundary(labels, side, IGNORED)[None] for side in sides_of(model)])
    return map_scales(Tensor.float, boundary), map_scales(torch.ones_like, boundary)


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
    return map_scales(lambda stays, won: (2 * stays - 1) * won, regions.decisions, wins), drawn


def score_uncertainty(model: GatedModel, view: View) -> Scores:
    """The entropy of the classes that the dense network predicts for the node's pixels."""
    size = image_size(view.inputs)
    seg_logits = model._decode(model.backbone(view.inputs, _fine(model, view)), [dict(img_shape=size)])
    seg_logits = F.interpolate(seg_logits, size, mode='bilinear', align_corners=False)
    entropy = -(seg_logits.softmax(1) * seg_logits.log_softmax(1)).sum(1)
    scores = as_maps([_means(entropy, side) for side in sides_of(model)])
    return scores, map_scales(partial(torch.ones_like, dtype=torch.bool), scores)


def score_scales(model: GatedModel, view: View) -> Scores:
    """How far the features of the node are apart if all are fine and if all of its scale stay whole, relative to their
    size.
    """
    fine = per_scale(_fine(model, view))
    scores = []
    for i, side in enumerate(sides_of(model)):
        whole = as_maps([*fine[:i], 1 - fine[i], *fine[i + 1 :]])
        distances = []
        for x, y in zip(model.backbone(view.inputs, as_maps(fine)), model.backbone(view.inputs, whole), strict=True):
            cells = side // _stride(model, x, view)
            if cells:  # else a cell is larger than a node
                distances.append(_means((x - y).square().mean(1) / x.square().mean(), cells))
        scores.append(torch.stack(distances).mean(0))
    return as_maps(scores), map_scales(partial(torch.ones_like, dtype=torch.bool), as_maps(scores))


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
    of_pixels = [name for name in targets if name in ('boundary', 'uncertainty')]
    if of_pixels and not hasattr(model, 'decode_head'):
        raise ValueError(f'target {of_pixels[0]}: wanted a segmentor, got {type(model).__name__}')
    segmentor: Any = model
    for name in ('uncertainty', 'utility'):
        if name in targets and hasattr(model, 'check_scores'):
            segmentor.check_scores(f'target {name}')
    if model.backbone.out_type != 'featmap' and 'scales' in targets:
        raise ValueError(f"target scales: wanted out_type='featmap', got {model.backbone.out_type!r}")
    if 'utility' in targets:
        if type(model)._utilities is GatedModel._utilities:
            raise ValueError(f'target utility: wanted a segmentor or a classifier, got {type(model).__name__}')
        backbone: Any = model.backbone
        gradient, out_type = backbone.gate_gradient, backbone.out_type
        if gradient == 'mask' or out_type == 'cls_token':
            wanted = "gate_gradient='output' and out_type='featmap'"
            raise ValueError(f'target utility: wanted {wanted}, got {gradient!r} and {out_type!r}')


def fit_gate(
    model: GatedModel,
    images: Iterable[dict],
    targets: Sequence[str],
    coarse_ratio: float | Sequence[float],
    batch_size: int = 8,
    steps: int = 500,
    lr: float = 2e-3,
    scales: Sequence[float] = (1.0, 0.85),
) -> list[float]:
    """Fit a gate whose weights can learn, in place, with everything else as it is.

    Regions should be fine where their score is above the quantile of ``coarse_ratio`` (:class:`UtilityGateLoss`, whose
    weights heed the distance from it), or where they hold a boundary: cross-entropy, of several targets the sum. Nodes
    of more than two scales alike, each scale with a quantile of its own; the losses add up.

    Args:
        model: In evaluation mode.
        images: At least ``steps * batch_size`` batches of one image each, of any sizes.
        targets: Some of ``TEACHERS``.
        coarse_ratio: Wanted, in (0, 1); of more than two scales one for all, or one for each but the smallest.
        scales: Of the images; each batch draws one.

    Returns:
        The loss of each step.
    """
    gate, history = model.backbone.gate, []
    criteria = {name: [_criterion(name, ratio) for ratio in _each(model, coarse_ratio)] for name in targets}
    optimizer = torch.optim.AdamW(gate.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    images = iter(images)
    for _ in range(steps):
        scale = scales[int(torch.randint(len(scales), ()))]
        views = [take_view(model, next(images), scale) for _ in range(batch_size)]
        logits = _over_views([gate(view.inputs) for view in views])
        losses: list[Tensor] = []
        for name in targets:
            values, known = map(_over_views, zip(*[score(model, view, name) for view in views], strict=True))
            losses += map(_loss, logits, values, known, criteria[name])
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    optimizer.zero_grad()  # or what trains next would begin with this gradient
    return history


def draw_images(images: Any, count: int, num_workers: int) -> DataLoader:
    """``count`` of :class:`~msvit_mm.datasets.prepared.PreparedImages` at random, one after the other."""
    sampler = RandomSampler(images, replacement=True, num_samples=count)
    return DataLoader(images, batch_size=None, sampler=sampler, num_workers=num_workers, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch


@torch.no_grad()
def judge_gate(
    model: GatedModel, images: Iterable[dict], targets: Sequence[str], coarse_ratio: float | Sequence[float]
) -> Mapping[str, float]:
    """AUC of a gate's logits against each target, on images; of scores against those above the ratio's quantile.

    Of more than two scales ``utility_64`` and so on, by the nodes' side.
    """
    views = [take_view(model, image) for image in images]
    logits = _over_views([model.backbone.gate(view.inputs) for view in views])
    suffixes = [f'_{side}' for side in sides_of(model)] if len(logits) > 1 else ['']
    auc = {}
    for name in targets:
        values, known = map(_over_views, zip(*[score(model, view, name) for view in views], strict=True))
        for suffix, ratio, *own in zip(suffixes, _each(model, coarse_ratio), logits, values, known, strict=True):
            judged, scores, there = (x.cpu().numpy() for x in own)
            limit = 0.5 if name == 'boundary' else np.quantile(scores[there], ratio)
            auc[name + suffix] = area_under_curve(-judged[there], scores[there] > limit)
    return auc


@torch.no_grad()
def score(model: GatedModel, view: View, target: str) -> Scores:
    """What a target says of the regions of a view."""
    return TEACHERS[target](model, view)


def _loss(logits: Tensor, scores: Tensor, known: Tensor, criterion: UtilityGateLoss | None) -> Tensor:
    if criterion is None:
        return F.binary_cross_entropy_with_logits(logits, 1 - scores)
    return criterion(logits, scores, known)['loss_gate_utility']


def _criterion(target: str, coarse_ratio: float) -> UtilityGateLoss | None:
    return None if target == 'boundary' else UtilityGateLoss(coarse_ratio)


def _each(model: GatedModel, coarse_ratio: float | Sequence[float]) -> Sequence[float]:
    """The ratio of each scale but the smallest."""
    return coarse_ratio if isinstance(coarse_ratio, Sequence) else [coarse_ratio] * len(sides_of(model))


def _over_views(maps: Iterable[Maps]) -> list[Tensor]:
    """Values of the nodes of all views, of each scale, (n,)."""
    return [torch.cat([x.flatten() for x in own]) for own in zip(*map(per_scale, maps), strict=True)]


def _fine(model: GatedModel, view: View) -> Maps:
    """Decisions under which all nodes are split, (1, rows, cols)."""
    return map_scales(torch.zeros_like, model.backbone.gate(view.inputs))


def sides_of(model: GatedModel) -> tuple[int, ...]:
    """Sides in pixels of the nodes that a model's gate decides, the largest first."""
    return node_sides(model.backbone.metainfo()['patch_sizes'])


def _stride(model: GatedModel, features: Tensor, view: View) -> int:
    """Side in pixels of a cell of feature maps: a fine patch, or that doubled."""
    backbone: Any = model.backbone
    strides = (backbone.patch_size << i for i in range(16))
    (height, width), size = image_size(view.inputs), image_size(features)
    return next(stride for stride in strides if (-(-height // stride), -(-width // stride)) == size)


def _means(values: Tensor, side: int) -> Tensor:
    return region_means(values, torch.ones_like(values, dtype=torch.bool), side)


@HOOKS.register_module()
class GateFitHook(Hook):
    """Fit the gate before the first iteration, in about a minute, in which all else stays as it is.

    By :func:`fit_gate` on whole images of the training set, as the test pipeline prepares them; then it is calibrated
    to the coarse ratio. Random states stay as they were, and a resumed run fits nothing. Of several processes the first
    fits for all. A frozen gate is fitted, too, and so is that of the weights that an ``EMAHook`` averages.

    Args:
        targets: Some of ``boundary``, ``utility``, ``uncertainty`` and ``scales`` (docs/gates.md).
        coarse_ratio: In (0, 1); by default what the gate loss asks for, or else the utility loss.
        steps: Of the optimizer.
        batch_size: Images of a step.
        lr: Of AdamW, falling to 0 along a cosine.
        scales: Of the images; each step draws one.
        num_images: For the ratio, evenly spaced over the training set.

    Raises:
        ValueError: If an argument is out of its range; before the training, if the model lacks what a target is taken
            from, nothing says a ratio, or there is no ``test_dataloader``.
    """

    priority = 'VERY_LOW'  # what would end the training shows before

    def __init__(
        self,
        targets: Sequence[str] = ('boundary',),
        coarse_ratio: float | None = None,
        steps: int = 500,
        batch_size: int = 8,
        lr: float = 2e-3,
        scales: Sequence[float] = (1.0, 0.85),
        num_images: int = 256,
    ) -> None:
        if not targets or not set(targets) <= set(TEACHERS):
            raise ValueError(f'targets must be some of {", ".join(TEACHERS)}, got {targets!r}')
        if coarse_ratio is not None:
            check_in('(0, 1)', coarse_ratio=coarse_ratio)
        check_in('[1, inf)', steps=steps, batch_size=batch_size, num_images=num_images)
        check_in('(0, inf)', lr=lr, **{f'scales[{i}]': scale for i, scale in enumerate(scales)})
        self.targets = targets
        self.coarse_ratio = coarse_ratio
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.scales = scales
        self.num_images = num_images

    def before_train(self, runner: Runner) -> None:
        if runner.iter:
            return
        model = unwrap(runner.model)
        check_target(model, self.targets)
        ratios = asked_ratios(model) if self.coarse_ratio is None else (self.coarse_ratio,) * len(sides_of(model))
        if not ratios:
            raise ValueError('GateFitHook: wanted coarse_ratio, or a gate or utility loss that says one, got neither.')
        if not runner.cfg.get('test_dataloader'):
            raise ValueError('GateFitHook: wanted a test_dataloader, whose pipeline prepares the images, got none.')
        states, gate = get_random_states(), model.backbone.gate
        model.eval()
        try:
            losses = self._fit(runner, model, ratios) if is_main_process() else []
            for tensor in gate.state_dict().values():
                broadcast(tensor)
            images = training_images(runner, self.num_images, shared=True)
            report = calibrate_gate(model, images, 'coarse_ratio', fmean(ratios), with_decoder=False)
        finally:
            model.train()
            set_random_states(states)
        for average in (unwrap(hook.ema_model.module) for hook in runner.hooks if isinstance(hook, EMAHook)):
            average.backbone.gate.load_state_dict(gate.state_dict())
        if losses:
            runner.logger.info(
                f'GateFitHook: fitted to {" and ".join(self.targets)}, loss {losses[0]:.4f} to {losses[-1]:.4f}; '
                f'coarse ratio {report["after"]["coarse_ratio"]:.4f} on {report["num_images"]} training images.'
            )

    def _fit(self, runner: Runner, model: GatedModel, ratios: Sequence[float]) -> list[float]:
        images = training_images(runner, with_labels=bool(set(self.targets) & set(LABELLED)))
        num_workers = runner.train_loop.dataloader.num_workers
        drawn = draw_images(images, self.steps * self.batch_size, num_workers)
        parameters = list(model.backbone.gate.parameters())
        learning = [parameter.requires_grad for parameter in parameters]
        model.backbone.gate.requires_grad_(True)
        losses = fit_gate(model, drawn, self.targets, ratios, self.batch_size, self.steps, self.lr, self.scales)
        for parameter, is_learning in zip(parameters, learning, strict=True):
            parameter.requires_grad_(is_learning)
        return losses
