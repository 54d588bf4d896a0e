"""One checkpoint, any budget: shift a gate's logits until its choices cost what is wanted on a set of images.

By a command, or by a hook at the end of training.
"""

from bisect import bisect_left
from collections.abc import Iterable
from statistics import fmean
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..backbones import GatedBackbone
from ..backbones.base import HostModel, image_size
from ..datasets.configs import leaf_datasets
from ..datasets.prepared import PreparedImages, space_evenly
from ..ops.checks import check_in
from ..ops.scales import by_scale
from ..ops.tiling import Maps, map_scales, per_scale
from .schedule import unwrap

# Whether a measure rises or falls with the threshold, above which regions are coarse.
SIGNS = dict(coarse_ratio=-1, num_tokens=1, gmacs=1)
RESOLUTION = 1e-6  # logits closer than this part of the largest are a tie, which rounding could break either way


class GatedImage(NamedTuple):
    """What a gate said about one image.

    Attributes:
        gate_logits: Of each window, shape (1, rows, cols), per scale but the smallest; a whole image is one window.
        sizes: (height, width) of each window in pixels.
        decoder_gmacs: Multiply-adds of neck and head in 1e9, which no choice changes; 0 if not asked for.
    """

    gate_logits: list[Maps]
    sizes: list[tuple[int, int]]
    decoder_gmacs: float


class Windows(NamedTuple):
    """Windows of one size, of all images.

    Attributes:
        gate_logits: Shape (n, rows, cols), per scale but the smallest.
        size: (height, width) in pixels.
        weights: Of each window in the mean over the windows of its image, shape (n,).
    """

    gate_logits: Maps
    size: tuple[int, int]
    weights: Tensor


def calibrate_gate(
    model: HostModel, batches: Iterable[dict], measure: str, wanted: float, with_decoder: bool = True
) -> dict:
    """Shift a gate's logits so that its choices, coarse above 0, meet a budget on these images.

    Which of two regions is the more coarse stays, as do all other weights. Of the thresholds that lie between two
    distinct logits, the one whose cost is nearest to what is wanted becomes 0. Several processes bring their own images
    each, and all get the threshold of all images.

    Args:
        model: A segmentor or classifier over a gated backbone, in evaluation mode; its gate is shifted in place.
        batches: Batches of one image each, for the model's ``data_preprocessor``.
        measure: ``'coarse_ratio'``, ``'num_tokens'`` or ``'gmacs'`` (1e9 multiply-adds of the whole model): means over
            the images. The tokens and multiply-adds of an image's sliding windows add up; its ratio is their mean.
        wanted: The budget.
        with_decoder: Whether to predict each image, so that multiply-adds hold those of neck and head.

    Returns:
        ``measure``, ``wanted``, ``threshold``, the three measures ``before`` and ``after``, ``num_images``.

    Raises:
        ValueError: If the gate has no logits to shift, there is no image, or the budget is below all regions coarse or
            above all regions fine.
    """
    if measure not in SIGNS:
        raise ValueError(f'measure must be one of {sorted(SIGNS)}, got {measure!r}')
    if measure == 'coarse_ratio' and not 0 <= wanted <= 1:
        raise ValueError(f'{measure}: wanted a budget between 1 (all regions coarse) and 0 (all fine), got {wanted:g}')
    gate = model.backbone.gate
    gate.shift_logits(0.0)  # a gate without logits says so before the images take their time
    own = [record_gate(model, batch, with_decoder) for batch in batches]
    images = [image for part in all_gather_object(own) for image in part]
    report = find_threshold(model.backbone, images, measure, wanted)
    gate.shift_logits(-report['threshold'])
    return report


def asked_ratios(model: HostModel) -> tuple[float, ...]:
    """The coarse ratio that a model's gate loss asks for, or else its utility loss; empty if neither does.

    Of more than two scales one for each but the smallest, that of the largest nodes first.
    """
    for loss in (getattr(model, name, None) for name in ('gate_loss', 'utility_loss')):
        ratios = getattr(loss, 'coarse_ratios', None) or [getattr(own, 'coarse_ratio', None) for own in by_scale(loss)]
        if ratios and None not in ratios:
            return tuple(ratios)
    return ()


def find_threshold(backbone: GatedBackbone, images: list[GatedImage], measure: str, wanted: float) -> dict:
    """The threshold that :func:`calibrate_gate` stores, and its report, for what :func:`record_gate` has recorded.

    Raises:
        ValueError: If there is no image, the budget is below all regions coarse or above all regions fine, or one of
            GMACs does not follow from the gate alone.
    """
    if measure == 'gmacs' and backbone.between:
        raise ValueError(
            f'gmacs: wanted a backbone without steps between the layers, got {len(backbone.between)}, which cost what '
            'the image says; ask for num_tokens or coarse_ratio'
        )
    if not images:
        raise ValueError('calibration: wanted at least one image, got none')

    windows = group_windows(images)
    decoder_gmacs = sum(image.decoder_gmacs for image in images) / len(images)

    def costs(threshold: float) -> dict[str, float]:
        means = mean_costs(backbone, windows, threshold)
        return means | dict(gmacs=means['gmacs'] + decoder_gmacs)

    def signed_cost(threshold: float) -> float:
        return SIGNS[measure] * costs(threshold)[measure]

    thresholds = list_thresholds(images)
    coarse, fine = (abs(signed_cost(threshold)) for threshold in (thresholds[0], thresholds[-1]))
    rounding = 1e-9 * max(coarse, fine)  # an end of the range may have been computed in another order
    if not min(coarse, fine) - rounding <= wanted <= max(coarse, fine) + rounding:
        raise ValueError(
            f'{measure}: wanted a budget between {coarse:.6g} (all regions coarse) and {fine:.6g} (all fine) on these '
            f'images, got {wanted:.6g}'
        )
    place = bisect_left(thresholds, SIGNS[measure] * wanted, key=signed_cost)
    around = thresholds[max(place - 1, 0) : place + 1]
    threshold = min(around, key=lambda t: abs(signed_cost(t) - SIGNS[measure] * wanted))
    before, after = costs(0.0), costs(threshold)
    report = dict(measure=measure, wanted=wanted, threshold=threshold, before=before, after=after)
    return report | dict(num_images=len(images))


@torch.no_grad()
def record_gate(model: HostModel, batch: dict, with_decoder: bool = True) -> GatedImage:
    """What the gate says about the one image of a batch, window by window, as the model predicts."""
    batch = model.data_preprocessor(batch)
    inputs, decoder_gmacs = batch['inputs'], 0.0
    boxes = model.windows(image_size(inputs))
    windows = [inputs[:, :, top:bottom, left:right] for top, left, bottom, right in boxes]
    gate_logits = [map_scales(lambda x: x.double().cpu(), model.backbone.gate(window)) for window in windows]
    if with_decoder:
        (sample,) = model.predict(inputs, batch['data_samples'])
        decoder_gmacs = sample.gmacs - sample.backbone_gmacs
    return GatedImage(gate_logits, [image_size(window) for window in windows], decoder_gmacs)


def group_windows(images: list[GatedImage]) -> list[Windows]:
    """The windows of all images by their sizes."""
    pairs = [
        (size, gate_logits, 1 / len(image.sizes))
        for image in images
        for size, gate_logits in zip(image.sizes, image.gate_logits, strict=True)
    ]
    groups = []
    for size in dict.fromkeys(size for size, _, _ in pairs):
        logits, weights = zip(*((x, weight) for own, x, weight in pairs if own == size), strict=True)
        groups.append(
            Windows(map_scales(lambda *x: torch.cat(x), *logits), size, torch.tensor(weights, dtype=torch.double))
        )
    return groups


def mean_costs(backbone: GatedBackbone, groups: list[Windows], threshold: float) -> dict[str, float]:
    """Coarse ratio, tokens and GMACs of the backbone per image, means over the images, logits above it being coarse."""
    totals = dict.fromkeys(SIGNS, 0.0)
    for gate_logits, size, weights in groups:
        coarse = map_scales(lambda x: x > threshold, gate_logits)
        costs = backbone.costs_of(coarse, size)
        ratios = torch.stack([x.double().mean((1, 2)) for x in per_scale(coarse)]).mean(0)
        totals['coarse_ratio'] += (ratios * weights).sum().item()
        totals['num_tokens'] += backbone.count_tokens(costs).sum().item()
        totals['gmacs'] += costs.total.sum().item() / 1e9
    num_images = sum(group.weights.sum().item() for group in groups)
    return {measure: total / num_images for measure, total in totals.items()}


def list_thresholds(images: list[GatedImage]) -> list[float]:
    """Thresholds that choose differently: between any two distinct logits, and one beyond either end, ascending."""
    maps = [x for image in images for logits in image.gate_logits for x in per_scale(logits)]
    logits = torch.cat([x.flatten() for x in maps]).unique()
    gaps = logits.diff() > RESOLUTION * logits.abs().max().clamp(min=1)
    between = (logits[:-1] + logits[1:])[gaps] / 2
    return [logits[0].item() - 1, *between.tolist(), logits[-1].item() + 1]


@HOOKS.register_module()
class GateCalibrationHook(Hook):
    """Shift the gate's logits after the last iteration, so that the coarse ratio asked for is the ratio got.

    By :func:`calibrate_gate` on images of the training set, as the test pipeline prepares them, before the checkpoint
    and the validation of that iteration: weights and scores are the calibrated gate's. Weights alone decide, so that a
    resumed run ends as one that never stopped, and several processes share the images. Gates that do not learn stay as
    they are, as do routes and checkpoints of earlier iterations. Of more than two scales the logits of all shift alike,
    until the mean over the scales is the one asked for. Weights that an ``EMAHook`` averages have a gate of their own,
    which shifts by its own threshold.

    Args:
        coarse_ratio: In (0, 1); by default what the gate loss asks for, or else the utility loss, the mean over the
            scales.
        num_images: Evenly spaced over the training set.

    Raises:
        ValueError: If an argument is out of its range; before the training, if the gate that learns has no logits to
            shift.
    """

    priority = 'LOW'  # before the checkpoint

    def __init__(self, coarse_ratio: float | None = None, num_images: int = 256) -> None:
        if coarse_ratio is not None:
            check_in('(0, 1)', coarse_ratio=coarse_ratio)
        check_in('[1, inf)', num_images=num_images)
        self.coarse_ratio = coarse_ratio
        self.num_images = num_images

    def before_train(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        if self._ratios(model):
            model.backbone.gate.shift_logits(0.0)  # one without logits says so before the training, not after it

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == runner.max_iters:
            self.calibrate(runner)

    def calibrate(self, runner: Runner) -> None:
        """Calibrate the gates of the run's model and of its averages, if they learn towards a coarse ratio."""
        averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        for model in (runner.model, *averages):
            self._calibrate_model(runner, unwrap(model))

    def _ratios(self, model: Any) -> tuple[float, ...]:
        """What a gate that learns is calibrated to; empty if there is none."""
        backbone: Any = getattr(model, 'backbone', None)
        if getattr(backbone, 'region_size', None) is None or not backbone.gate.learnable:
            return ()
        return asked_ratios(model) if self.coarse_ratio is None else (self.coarse_ratio,)

    def _calibrate_model(self, runner: Runner, model: Any) -> None:
        ratios = self._ratios(model)
        if not ratios:
            return
        if not runner.cfg.get('test_dataloader'):
            runner.logger.warning('GateCalibrationHook: no test_dataloader, whose pipeline it needs; nothing was done.')
            return
        model.eval()
        try:
            images = training_images(runner, self.num_images, shared=True)
            report = calibrate_gate(model, images, 'coarse_ratio', fmean(ratios), with_decoder=False)
        finally:
            model.train()
        runner.logger.info(
            'GateCalibrationHook: coarse ratio {:.4f} on {} training images, {:.4f} before: logits above {:.4g} are '
            'coarse, which is 0 now.'.format(
                report['after']['coarse_ratio'],
                report['num_images'],
                report['before']['coarse_ratio'],
                report['threshold'],
            )
        )


def training_images(
    runner: Runner, num_images: int | None = None, with_labels: bool = False, shared: bool = False
) -> PreparedImages:
    """Images of a run's training set, evenly spaced or all, as its test pipeline prepares them.

    Args:
        shared: Each process takes a part of them.
    """
    dataset, pipeline = runner.train_loop.dataloader.dataset, leaf_datasets(runner.cfg.test_dataloader.dataset)[0]
    places = space_evenly(len(dataset), num_images)
    if shared:
        places = places[get_rank() :: get_world_size()]
    return PreparedImages([dataset.get_data_info(place) for place in places], pipeline['pipeline'], with_labels)
