"""A published model as a folder of the Hugging Face Hub, and back: weights, config and a card, nothing that executes.

``model.safetensors``: the weights. ``config.json``: the config of the run as plain values, classes and metrics.
``README.md``: the model card.
"""

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from .kept import parse_config
from .loading import check_coverage, check_shapes, load_weights_safely
from .names import check_names

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
INSTALL = 'install with `pip install msvit_mm[hub]`'
TASKS = {'Semantic Segmentation': 'image-segmentation', 'Instance Segmentation': 'object-detection'}
USAGE = """```python
from msvit_mm.checkpoints import load_from_hub

model = load_from_hub('{where}')  # a folder, or USER/NAME on the Hub
```"""


def hub_files(published: Mapping[str, Any], entry: Mapping[str, Any], paper: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a model's folder, by name.

    Args:
        published: Of :func:`~msvit_mm.checkpoints.publish.strip_checkpoint`.
        entry: The model's in a metafile, of :func:`~msvit_mm.checkpoints.publish.describe_model`.
        paper: Title and URL.

    Raises:
        ImportError: If safetensors is not there.
    """
    try:
        from safetensors.torch import save  # noqa: PLC0415  # optional dependency
    except ImportError as error:
        raise ImportError(f'weights as safetensors need the package safetensors; {INSTALL}.') from error
    meta = dict(published['meta'])
    config = dict(library='msvit_mm', config=parse_config(meta.pop('cfg')), meta=meta)
    weights = {name: tensor.contiguous().clone() for name, tensor in published['state_dict'].items()}
    return {
        WEIGHTS: save(weights, metadata=dict(format='pt')),
        CONFIG: json.dumps(_to_json(config), indent=2, allow_nan=False).encode(),
        CARD: model_card(entry, paper).encode(),
    }


def model_card(entry: Mapping[str, Any], paper: Mapping[str, str]) -> str:
    """The card of a model: what the Hub sorts by, what it is, how to load it, and its figures."""
    about = entry['Metadata']
    results = entry.get('Results', [])
    task = next((result['Task'] for result in results), None)
    head = dict(library_name='msvit_mm', tags=['msvit', 'mmsegmentation', 'mixed-scale tokens'])
    head |= {} if task is None else dict(pipeline_tag=TASKS.get(task, 'image-classification'))
    lines = [
        '---',
        yaml.safe_dump(head, sort_keys=False).strip(),
        '---',
        f'# {entry["Name"]}',
        f'{entry["In Collection"]} ([{paper.get("Title", "")}]({paper.get("URL", "")})), '
        f'trained on {about["Training Data"]} with `{entry["Config"]}`: {about["Parameters"]:,} parameters.',
        USAGE.format(where=entry['Name']),
        *(_figures(result) for result in results),
    ]
    return '\n'.join(lines[:3]) + '\n\n' + '\n\n'.join(lines[3:]) + '\n'


def _figures(result: Mapping[str, Any]) -> str:
    rows = [f'| {name} | {value:.4g} |' for name, value in result['Metrics'].items()]
    title = (
        f'{result["Task"]} on the validation images of {result["Dataset"]}, means; one multiply-add counts as one FLOP.'
    )
    return '\n'.join([title, '', '| metric | value |', '|---|---|', *rows])


def load_from_hub(source: str | PathLike, revision: str | None = None, token: str | None = None) -> nn.Module:
    """Build a published model with its weights, in evaluation mode; ``cfg`` and ``dataset_meta`` are on it.

    Only registered names are built, and weights are tensors alone: nothing from the folder is executed.

    Args:
        source: A folder, or USER/NAME on the Hugging Face Hub.
        revision: Branch, tag or commit on the Hub.
        token: For what is private there.

    Raises:
        ValueError: If files are missing or damaged, a type in the config is no registered name, or weights do not fit.
        ImportError: If huggingface_hub is needed and not there.
    """
    folder = find_folder(source, revision, token)
    config, meta = read_config(folder / CONFIG)
    check_names(config, f"'{folder / CONFIG}'")
    words = {'data_preprocessor': config.get('data_preprocessor'), **config['model']}
    cfg = Config(config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = revert_sync_batchnorm(MODELS.build(Config(words)))
    weights, _ = load_weights_safely(folder / WEIGHTS)
    check_coverage(model.state_dict(), weights)
    check_shapes(model.state_dict(), weights)
    model.load_state_dict(weights, strict=False)
    model.cfg, model.dataset_meta = cfg, meta.get('dataset_meta', {})
    return model.eval()


def find_folder(source: str | PathLike, revision: str | None = None, token: str | None = None) -> Path:
    """The folder itself, or a copy of what the Hub has under this name.

    Raises:
        ImportError: If huggingface_hub is needed and not there.
        ValueError: If there is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  # optional dependency
    except ImportError as error:
        raise ImportError(f"'{source}' is no folder, and the Hub needs huggingface_hub; {INSTALL}.") from error
    try:
        return Path(snapshot_download(str(source), revision=revision, token=token, allow_patterns=[WEIGHTS, CONFIG]))
    except (OSError, ValueError) as error:  # those of huggingface_hub are of these kinds
        got = ' '.join(str(error).split())[:200]
        raise ValueError(f"'{source}': wanted a folder, or a model of the Hub, got neither: {got}") from error


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Config and meta information of a folder's ``config.json``.

    Raises:
        ValueError: If there is no such file, or it is no config of a whole model of this package.
    """
    if not path.is_file():
        raise ValueError(f"'{path}': wanted a file of `msvit publish-model --format safetensors`, got none.")
    try:
        content = _from_json(json.loads(path.read_text(encoding='utf-8')))
    except ValueError as error:
        raise ValueError(f"'{path}': wanted JSON, got {' '.join(str(error).split())[:120]}.") from None
    config = content.get('config') if isinstance(content, dict) else None
    if not (isinstance(config, dict) and isinstance(config.get('model'), dict)):
        got = ', '.join(list(content)[:3]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"'{path}': wanted 'config' with a model, got {got}.")
    return config, content.get('meta') or {}


def _to_json(value: Any) -> Any:
    """Plain values as JSON knows them; tuples and what is not finite are marked."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {'(tuple)': [_to_json(item) for item in value]}
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return {'(float)': str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    match value:
        case {'(tuple)': items, **others} if not others:
            return tuple(map(_from_json, items))
        case {'(float)': text, **others} if not others:
            return float(text)
        case dict():
            return {key: _from_json(item) for key, item in value.items()}
        case list():
            return list(map(_from_json, value))
    return value
