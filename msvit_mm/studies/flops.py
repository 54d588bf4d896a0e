"""Tokens and multiply-adds on real images, and whether the closed form counts what is dispatched."""

from collections.abc import Sequence
from typing import Any

import torch

from ..evaluation import PARTS, count_parts, spread
from ..models import GatedModel
from ..ops.macs import count_macs

TOLERANCE = 1e-3


def check_count(model: GatedModel, batch: dict, seed: int) -> float:
    """Relative error of the backbone's closed form on this batch.

    Raises:
        ValueError: If it exceeds the tolerance.
    """
    torch.manual_seed(seed)  # random gates decide alike
    counts, _ = count_parts(model, batch)
    torch.manual_seed(seed)
    dispatched = count_macs(model.predict, batch['inputs'], batch['data_samples']) / 1e9
    error = abs(dispatched - counts['whole']) / counts['backbone']
    if error > TOLERANCE:
        raise ValueError(f'count: wanted the {dispatched:.6f} GMACs that are dispatched, got {counts["whole"]:.6f}.')
    return error


def summarize(counts: Sequence[dict], dense: Sequence[dict]) -> dict:
    """Spread over the images of each number, beside its dense mean and the ratio of the means."""
    rows = {}
    for name in ('num_tokens', *PARTS):
        row: dict[str, Any] = dict(spread([image[name] for image in counts]))
        row['dense'] = spread([image[name] for image in dense])['mean']
        row['ratio'] = row['mean'] / row['dense'] if row['dense'] else None
        rows[name] = row
    return dict(num_tokens=rows.pop('num_tokens'), gmacs=rows)
