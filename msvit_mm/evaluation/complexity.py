"""What the predictions cost, beside their accuracy."""

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class ComplexityMetric(BaseMetric):
    """Means over the images of coarse ratio, active tokens and multiply-adds (in 1e9, 1 MAC = 1 FLOP as papers count).

    Reads what GatedEncoderDecoder and GatedImageClassifier leave on their data samples.

    Raises:
        ValueError: If a prediction carries no cost, because the model is not gated.
    """

    FIELDS = ('num_tokens', 'backbone_gmacs', 'gmacs')

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            if 'scale_map' not in sample:
                raise ValueError(f'ComplexityMetric needs predictions with a scale_map, got fields {sorted(sample)}')
            coarse_ratio = sample['scale_map']['data'].mean().item()
            self.results.append((coarse_ratio, *(sample[name] for name in self.FIELDS)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        means = np.array(results).mean(axis=0)
        return dict(zip(('coarse_ratio', *self.FIELDS), map(float, means), strict=True))
