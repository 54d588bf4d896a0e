"""Time exported networks beside their exported dense host, on one thread of the CPU."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..export import Engine, describe_engine, differences, export_graph, load_graph, output_names
from ..models.gated import GatedModel
from .timing import compare_calls, process_ms


def dense_engine(model: GatedModel, image_size: tuple[int, int], backbone: bool = False) -> Engine:
    """The whole model over its dense host, without a gate; over tokens the ladder's top, with all regions fine.

    Args:
        backbone: The dense host alone.
    """
    if backbone:
        host = model.backbone.dense_twin(image_size)
        host.eval()
        return Engine('dense', host.requires_grad_(False), output_names(model, backbone))
    num_cells = model.backbone.dense_costs(image_size).num_tokens[0].item()
    if model.token_head is not None:
        return Engine('dense', model.static(image_size, num_cells), ('scores',))
    network: Any = model.static(image_size)
    network.model.backbone = model.backbone.dense_twin(image_size)
    network.eval()
    return Engine('dense', network.requires_grad_(False), ('scores',))


def time_engines(
    files: Mapping[str, Path],
    gmacs: Mapping[str, float],
    dense: Engine,
    images: Tensor,
    rounds: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> dict[str, dict[str, float]]:
    """Time files in turns with the dense network, which is exported for it; ``'dense'`` is among the rows.

    Args:
        files: Of one form, by name.
        gmacs: Multiply-adds per image of each.
        dense: What they are compared with.
        images: What they are run on, (B, 3, H, W).
        rounds: That count.
        progress: Wraps the range of rounds, to show how far it is.

    Returns:
        What :func:`~msvit_mm.studies.timing.compare` says of each; processor time of a batch.
    """
    form = next(iter(files.values())).suffix.lstrip('.')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'dense.{form}')
        content = export_graph(dense.network, images, form, dense.outputs)
        path.write_bytes(content)
        described = describe_engine(dense, path.name, images, differences(dense.network, content, form, images))
        runs = {name: load_graph(file, threads=1) for name, file in {'dense': path, **files}.items()}
        calls = {name: partial(run, images) for name, run in runs.items()}
        references = dict.fromkeys(runs, 'dense')
        gmacs = {'dense': described['gmacs'], **gmacs}
        return compare_calls(calls, gmacs, references, process_ms, rounds, progress)


def add_times(
    rows: Sequence[dict],
    files: Sequence[Path],
    dense: Engine,
    images: Tensor,
    rounds: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> list[dict]:
    """The rows of :func:`describe_engine` with times, the dense network's first; the gate alone stays as it is."""
    timed = {row['file']: file for row, file in zip(rows, files, strict=True) if row['num_tokens'] is not None}
    gmacs = {row['file']: row['gmacs'] for row in rows}
    times = time_engines(timed, gmacs, dense, images, rounds, progress)
    return [dict(file='dense', **times['dense']), *(row | times.get(row['file'], {}) for row in rows)]
