"""What the predictions cost, beside their accuracy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from ..backbones import Costs, coarse_ratios
from ..backbones.base import HostModel, image_size
from .steps import token_shares

STEP_KINDS = ('groups', 'layers')
PARTS = ('gate', 'embedding', 'encoder', 'backbone', 'decoder', 'whole')


@METRICS.register_module()
class ComplexityMetric(BaseMetric):
    """Means over the images of active tokens and multiply-adds (in 1e9, 1 MAC = 1 FLOP as papers count).

    Reads what models over gated backbones leave on their data samples. ``cost_ratio`` is relative to the dense
    backbone; ``gmacs`` is there where the whole model is counted, ``coarse_ratio`` where the gate decides regions: of
    more than two scales the mean over these, and ``coarse_ratio_64`` and so on of each among the nodes reached.

    With steps between the layers the shares of :func:`~msvit_mm.evaluation.steps.token_shares`, of two scales.

    Raises:
        ValueError: If a prediction carries no cost, because the model is not gated.
    """

    FIELDS = ('cost_ratio', 'num_tokens', 'backbone_gmacs', 'gmacs')

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            if 'cost_ratio' not in sample:
                raise ValueError(f'ComplexityMetric: wanted predictions with a cost_ratio, got fields {sorted(sample)}')
            scales = [name for name, (kind, _) in sample['choice_maps'].items() if kind == 'scale']
            result = coarse_ratios({name: sample[name]['data'] for name in scales})
            result |= {name: sample[name] for name in self.FIELDS if name in sample}
            self.results.append(result | _shares(sample, scales))

    def compute_metrics(self, results: list) -> dict[str, float]:
        names = dict.fromkeys(name for result in results for name in result)  # no image may lose tokens at some layer
        return {name: float(np.mean([result.get(name, 0.0) for result in results])) for name in names}


def _shares(sample: Mapping[str, Any], scales: list[str]) -> dict[str, float]:
    """Of the tokens that merged or left; none of more than two scales."""
    kinds = sample['choice_maps']
    steps = {kind: name for name, (kind, _) in kinds.items() if kind in STEP_KINDS}
    if not steps or len(scales) != 1:
        return {}
    factor = kinds[scales[0]][1] // kinds[next(iter(steps.values()))][1]
    maps = {kind: sample[name]['data'][0] for kind, name in steps.items()}
    return token_shares(sample[scales[0]]['data'][0], factor, maps.get('groups'), maps.get('layers'))


def count_parts(model: HostModel, batch: dict) -> tuple[dict[str, float], dict[str, float]]:
    """Tokens and GMACs by part of one image, windows summed, and those of the dense model.

    Args:
        model: A GatedEncoderDecoder or GatedImageClassifier; its neck and head are the decoder.
        batch: One image, as the model's ``data_preprocessor`` returns it.

    Returns:
        ``num_tokens`` and each of ``PARTS`` in 1e9 multiply-adds: as the gate decides, and dense.

    Raises:
        ValueError: If the model is another, such as a detector, whose neck and heads are not counted.
    """
    (sample,) = model.predict(batch['inputs'], batch['data_samples'])
    if 'gmacs' not in sample:
        raise ValueError(
            'count: wanted a segmentor or a classifier, whose neck and head can be counted, got '
            f'{type(model).__name__}; ComplexityMetric has the means of its backbone.'
        )
    sizes = model.window_sizes(image_size(batch['inputs']))
    windows = [model.backbone.dense_costs(size) for size in sizes]
    decoder = dense_decoder = sample.gmacs - sample.backbone_gmacs
    if model.token_head is not None:
        dense_decoder = sum(model.token_head.count_macs(x.num_tokens[0]).item() for x in windows) / 1e9
    counts = dict(gate=sample.gate_gmacs, embedding=sample.embedding_gmacs, encoder=sample.encoder_gmacs)
    dense: Costs = windows[0]
    for other in windows[1:]:
        dense = dense.plus(other)
    dense_counts = {name: getattr(dense, name).item() / 1e9 for name in counts}
    dense_tokens = model.backbone.count_tokens(dense).item()
    for parts, head, tokens in ((counts, decoder, sample.num_tokens), (dense_counts, dense_decoder, dense_tokens)):
        backbone = sum(parts.values())
        parts |= dict(decoder=head, backbone=backbone, whole=backbone + head, num_tokens=tokens)
    return counts, dense_counts


def spread(values: list[float]) -> dict[str, float]:
    """Mean, 5th, 50th and 95th percentile.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        {'mean': 2.0, 'p5': 1.1, 'p50': 2.0, 'p95': 2.9}
    """
    percentiles = np.percentile(values, (5, 50, 95)).tolist()
    return dict(mean=float(np.mean(values)), **dict(zip(('p5', 'p50', 'p95'), percentiles, strict=True)))
