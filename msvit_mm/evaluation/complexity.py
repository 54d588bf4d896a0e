"""What the predictions cost, beside their accuracy."""

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

PARTS = ('gate', 'embedding', 'encoder', 'backbone', 'decoder', 'whole')


@METRICS.register_module()
class ComplexityMetric(BaseMetric):
    """Means over the images of coarse ratio, active tokens and multiply-adds (in 1e9, 1 MAC = 1 FLOP as papers count).

    Reads what GatedEncoderDecoder and GatedImageClassifier leave on their data samples. Over routes the cost of the
    backbone relative to plain PVTv2, ``route_ratio``, stands in place of the coarse ratio.

    Raises:
        ValueError: If a prediction carries no cost, because the model is not gated.
    """

    FIELDS = ('num_tokens', 'backbone_gmacs', 'gmacs')

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            if 'scale_map' in sample:
                result = dict(coarse_ratio=sample['scale_map']['data'].mean().item())
            elif 'reference_gmacs' in sample:
                result = dict(route_ratio=sample['backbone_gmacs'] / sample['reference_gmacs'])
            else:
                raise ValueError(
                    f'ComplexityMetric needs predictions with a scale_map, got fields {sorted(sample)}; '
                    'or with the reference_gmacs of routes'
                )
            self.results.append(result | {name: sample[name] for name in self.FIELDS})

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {name: float(np.mean([result[name] for result in results])) for name in results[0]}


def count_parts(model: torch.nn.Module, batch: dict) -> tuple[dict[str, float], dict[str, float]]:
    """Tokens and GMACs by part of one image, windows summed, and those of the dense model on fine tokens alone.

    Args:
        model: A GatedEncoderDecoder or GatedImageClassifier; its neck and head are the decoder.
        batch: One image, as the model's ``data_preprocessor`` returns it.

    Returns:
        ``num_tokens`` and each of ``PARTS`` in 1e9 multiply-adds: as the gate decides, and dense.
    """
    windows = []
    forward_gated = model.backbone.forward_gated

    def record(images, *args):
        features, output = forward_gated(images, *args)
        windows.append((output, tuple(images.shape[-2:])))
        return features, output

    model.backbone.forward_gated = record
    try:
        (sample,) = model.predict(batch['inputs'], batch['data_samples'])
    finally:
        del model.backbone.forward_gated
    decoder = sample.gmacs - sample.backbone_gmacs
    gated = [model.choices.macs_of_parts(*window) for window in windows]
    dense = [model.choices.dense_macs_of_parts(size) for _, size in windows]
    counts, dense_counts = (
        {name: float(sum(window[name] for window in parts)) / 1e9 for name in parts[0]} for parts in (gated, dense)
    )
    cells = torch.tensor([model.choices.dense_num_tokens(size) for _, size in windows])
    counts['decoder'] = dense_counts['decoder'] = decoder
    if model.token_head is not None:
        dense_counts['decoder'] = model.token_head.count_macs(cells).sum().item() / 1e9
    for parts, num_tokens in ((counts, sample.num_tokens), (dense_counts, cells.sum().item())):
        parts['backbone'] = parts['gate'] + parts['embedding'] + parts['encoder']
        parts |= dict(whole=parts['backbone'] + parts['decoder'], num_tokens=num_tokens)
    return counts, dense_counts


def spread(values: list[float]) -> dict[str, float]:
    """Mean, 5th, 50th and 95th percentile.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        {'mean': 2.0, 'p5': 1.1, 'p50': 2.0, 'p95': 2.9}
    """
    percentiles = np.percentile(values, (5, 50, 95)).tolist()
    return dict(mean=float(np.mean(values)), **dict(zip(('p5', 'p50', 'p95'), percentiles, strict=True)))
