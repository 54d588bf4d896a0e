"""One checkpoint, any budget: shift a gate's logits until its choices cost what is wanted on a set of images."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..backbones import GatedBackbone
from ..backbones.base import image_size
from ..models import GatedModel

# Whether a measure rises or falls with the threshold, above which regions are coarse.
SIGNS = dict(coarse_ratio=-1, num_tokens=1, gmacs=1)
RESOLUTION = 1e-6  # logits closer than this part of the largest are a tie, which rounding could break either way


class GatedImage(NamedTuple):
    """What a gate said about one image.

    Attributes:
        gate_logits: Of each window, shape (1, rows, cols); a whole image is one window.
        sizes: (height, width) of each window in pixels.
        decoder_gmacs: Multiply-adds of neck and head in 1e9, which no choice changes.
    """

    gate_logits: list[Tensor]
    sizes: list[tuple[int, int]]
    decoder_gmacs: float


def calibrate_gate(model: GatedModel, batches: Iterable[dict], measure: str, wanted: float) -> dict:
    """Shift a gate's logits so that its choices, coarse above 0, meet a budget on these images.

    Which of two regions is the more coarse stays, as do all other weights. Of the thresholds that lie between two
    distinct logits, the one whose cost is nearest to what is wanted becomes 0.

    Args:
        model: A segmentor or classifier over a gated backbone, in evaluation mode; its gate is shifted in place.
        batches: Batches of one image each, for the model's ``data_preprocessor``.
        measure: ``'coarse_ratio'``, ``'num_tokens'`` or ``'gmacs'`` (1e9 multiply-adds of the whole model): means over
            the images. The tokens and multiply-adds of an image's sliding windows add up; its ratio is their mean.
        wanted: The budget.

    Returns:
        ``measure``, ``wanted``, ``threshold``, the three measures ``before`` and ``after``, ``num_images``.

    Raises:
        ValueError: If the gate has no logits to shift, there is no image, or the budget is below all regions coarse or
            above all regions fine.
    """
    if measure not in SIGNS:
        raise ValueError(f'measure must be one of {sorted(SIGNS)}, got {measure!r}')
    gate = model.backbone.gate
    gate.shift_logits(0.0)  # a gate without logits says so before the images take their time
    report = find_threshold(model.backbone, [record_gate(model, batch) for batch in batches], measure, wanted)
    gate.shift_logits(-report['threshold'])
    return report


def find_threshold(backbone: GatedBackbone, images: list[GatedImage], measure: str, wanted: float) -> dict:
    """The threshold that :func:`calibrate_gate` stores, and its report, for what :func:`record_gate` has recorded.

    Raises:
        ValueError: If there is no image, or the budget is below all regions coarse or above all regions fine.
    """
    if not images:
        raise ValueError('calibration: wanted at least one image, got none')

    def signed_cost(threshold: float) -> float:
        return SIGNS[measure] * mean_costs(backbone, images, threshold)[measure]

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
    before, after = (mean_costs(backbone, images, t) for t in (0.0, threshold))
    report = dict(measure=measure, wanted=wanted, threshold=threshold, before=before, after=after)
    return report | dict(num_images=len(images))


@torch.no_grad()
def record_gate(model: GatedModel, batch: dict) -> GatedImage:
    """What the gate says about the one image of a batch, window by window, as the model predicts."""
    logits: list[Tensor] = []
    sizes: list[tuple[int, int]] = []

    def record(gate: nn.Module, args: tuple[Tensor], gate_logits: Tensor) -> None:
        logits.append(gate_logits.double().cpu())
        sizes.append(image_size(args[0]))

    hook = model.backbone.gate.register_forward_hook(record)
    try:
        batch = model.data_preprocessor(batch)
        (sample,) = model.predict(batch['inputs'], batch['data_samples'])
    finally:
        hook.remove()
    return GatedImage(logits, sizes, sample.gmacs - sample.backbone_gmacs)


def mean_costs(backbone: GatedBackbone, images: list[GatedImage], threshold: float) -> dict[str, float]:
    """Coarse ratio, tokens and GMACs per image, means over the images, if logits above a threshold are coarse."""
    totals = dict.fromkeys(SIGNS, 0.0)
    for image in images:
        totals['gmacs'] += image.decoder_gmacs
        for gate_logits, size in zip(image.gate_logits, image.sizes, strict=True):
            coarse = gate_logits > threshold
            costs = backbone.costs_of(coarse, size)
            totals['coarse_ratio'] += coarse.double().mean().item() / len(image.sizes)
            totals['num_tokens'] += backbone.count_tokens(costs).item()
            totals['gmacs'] += costs.total.item() / 1e9
    return {measure: total / len(images) for measure, total in totals.items()}


def list_thresholds(images: list[GatedImage]) -> list[float]:
    """Thresholds that choose differently: between any two distinct logits, and one beyond either end, ascending."""
    logits = torch.cat([x.flatten() for image in images for x in image.gate_logits]).unique()
    gaps = logits.diff() > RESOLUTION * logits.abs().max().clamp(min=1)
    between = (logits[:-1] + logits[1:])[gaps] / 2
    return [logits[0].item() - 1, *between.tolist(), logits[-1].item() + 1]
