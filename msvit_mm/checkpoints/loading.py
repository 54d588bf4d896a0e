"""Load checkpoints without running code from them, and check that they fit a model.

mmengine falls back to an unrestricted unpickler when the restricted one refuses a file, and its allow list holds the
built-in ``getattr``, which reaches far beyond tensors. The allow list here holds what mmengine's own checkpoints need.
"""

import codecs
import contextlib
import hashlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from ..ops.finite import first_nonfinite
from .kept import kept_grids

try:
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray  # type: ignore[no-redef]  # the same module under its older name

RESUME_KEYS = ('state_dict', 'optimizer', 'meta', 'message_hub')
RESIZED = ('pos_embed', '.mean_logits', '.log_temperatures')
# Published files end in the first digits of their SHA-256; eight digits that are a date are none.
HASH_IN_NAME = r'-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.\w+$'
# Under which name training programs save weights, averaged ones first: users mean those.
WEIGHT_ENTRIES = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'teacher')


def load_checkpoint_safely(path: str | PathLike) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; nothing in the file is executed.

    Args:
        path: A local file that holds a dict with a ``state_dict``, as mmengine saves it.

    Raises:
        ValueError: If the file is missing, damaged, holds anything but tensors and plain values, or no ``state_dict``,
            or anything but plain tensors as weights.
    """
    checkpoint = _load(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), Mapping):
        got = f'the keys {_first(checkpoint)}' if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"checkpoint '{path}': wanted a dict with a 'state_dict', got {got}.")
    _check_parts(checkpoint, path)
    check_values(checkpoint['state_dict'], f"checkpoint '{path}'")
    return checkpoint


def load_weights_safely(path: str | PathLike) -> tuple['OrderedDict[str, Tensor]', str]:
    """Load the weights of a torch or safetensors file of any origin; nothing in the file is executed.

    Args:
        path: A local file that holds tensors by name, alone or as one of `WEIGHT_ENTRIES`.

    Returns:
        The tensors by name, with what the saving modules said of themselves; the entry of the file that held them,
        ``''`` if they are the whole file.

    Raises:
        ValueError: If the file is missing, damaged, holds code, or no tensors by name.
    """
    return find_weights(_load(path), f"checkpoint '{path}'")


def find_weights(content: Any, where: str) -> tuple['OrderedDict[str, Tensor]', str]:
    """The weights in what a file holds, and the entry that has them, as :func:`load_weights_safely` returns them.

    Args:
        content: Tensors by name, alone or as one of `WEIGHT_ENTRIES`.
        where: Begins the message.

    Raises:
        ValueError: If there are none.
    """
    entries: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    entry = next((name for name in WEIGHT_ENTRIES if isinstance(entries.get(name), Mapping)), '')
    weights: Any = entries[entry] if entry else entries
    if not any(isinstance(tensor, Tensor) for tensor in weights.values()):
        place = f"in '{entry}'" if entry else 'by name'
        got = f'the keys {_first(weights) or "of an empty dict"}' if entries else type(content).__name__
        raise ValueError(f'{where}: wanted weights {place}, got {got}.')
    return carry_metadata({str(name): tensor for name, tensor in weights.items()}, weights), entry


def check_coverage(
    model_keys: Iterable[str], checkpoint_keys: Iterable[str], allowed_missing: tuple[str, ...] = ()
) -> None:
    """Check that a checkpoint names every weight of a model; mmengine only warns and leaves the rest random.

    Args:
        model_keys: Names in the model's state dict.
        checkpoint_keys: Names in the checkpoint's state dict; a leading ``module.`` is ignored, as by mmengine.
        allowed_missing: Parts of a dotted name, such as ``'gate'``, below which weights may be missing.

    Raises:
        ValueError: If the checkpoint lacks weights.

    Example:
        >>> check_coverage(['backbone.norm.weight', 'backbone.gate.bias'], ['backbone.norm.weight'], ('gate',))
    """
    checkpoint_keys = list(checkpoint_keys)
    present = {key.removeprefix('module.') for key in checkpoint_keys}
    wanted = [key for key in model_keys if not key.endswith('num_batches_tracked')]
    missing = [key for key in wanted if key not in present and not set(key.split('.')) & set(allowed_missing)]
    if missing:
        raise ValueError(
            f'the checkpoint does not fit the model: {len(missing)} of {len(wanted)} weights are missing; '
            f'wanted {_first(missing)}, got {_first(checkpoint_keys)}.'
        )


def check_values(weights: Mapping[str, Any], where: str = 'the checkpoint') -> None:
    """Check that weights are tensors that a layer can hold: hosts copy others into a model, or skip them in silence.

    Args:
        weights: By name.
        where: Begins the message.

    Raises:
        ValueError: If one is no tensor, or a sparse, quantized or complex one, one without content, or one that
            repeats fewer numbers than its shape says.

    Example:
        >>> check_values({'weight': torch.zeros(2)})
    """
    for key, tensor in weights.items():
        if not isinstance(key, str):
            raise ValueError(f'{where}: wanted names of weights, got {type(key).__name__}.')
        if kind := _unfit_kind(tensor):
            raise ValueError(f'{where}: {key}: wanted a dense tensor of real numbers, got {kind}.')


def check_shapes(model_state: Mapping[str, Tensor], checkpoint_state: Mapping[str, Tensor]) -> None:
    """Check that weights of one name have one shape and kind, and are finite where they count.

    The shapes of position embeddings and of a gate loss's priors may differ: these are resized on loading.

    Raises:
        ValueError: If they do not fit.
    """
    unfit = 'the checkpoint does not fit the model'
    check_values(checkpoint_state, unfit)
    for key, tensor in checkpoint_state.items():
        wanted = model_state.get(key.removeprefix('module.'), tensor)
        if wanted.shape != tensor.shape and not key.endswith(RESIZED):
            raise ValueError(f'{unfit}: {key}: wanted {tuple(wanted.shape)}, got {tuple(tensor.shape)}.')
        if wanted.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f'{unfit}: {key}: wanted {wanted.dtype}, got {tensor.dtype}.')
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ValueError(f'{unfit}: {key}: wanted finite numbers, got NaN or infinity.')


def carry_metadata(weights: Mapping[str, Tensor], source: Mapping[str, Any]) -> 'OrderedDict[str, Tensor]':
    """Weights with what the modules that saved another state dict said of themselves (``_metadata``).

    Of :class:`~msvit_mm.backbones.MSViT` this is the grid of its positions. Saving keeps it.
    """
    carried: Any = OrderedDict(weights)
    carried._metadata = OrderedDict((key, dict(value)) for key, value in metadata_of(source).items())
    return carried


def metadata_of(weights: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What the modules that saved a state dict said of themselves, by their names; nothing where it is odd."""
    metadata = getattr(weights, '_metadata', None)
    found = metadata.items() if isinstance(metadata, Mapping) else ()
    plain = {key: value for key, value in found if isinstance(key, str) and isinstance(value, Mapping)}
    return {key.removeprefix('module.'): value for key, value in plain.items()}


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Check that weights are numbers.

    Raises:
        ValueError: If one is NaN or infinite.
    """
    name = first_nonfinite(weights)
    if name is not None:
        raise ValueError(f"the checkpoint's weights: wanted finite numbers, got NaN or infinity in {name}.")


def check_resumable(checkpoint: Mapping[str, Any]) -> None:
    """Check that a checkpoint holds the state of a training run beside the weights.

    Raises:
        ValueError: If a part is missing.
    """
    missing = [key for key in RESUME_KEYS if key not in checkpoint]
    meta = checkpoint.get('meta') or {}
    missing += [f'{name} in meta' for name in ('epoch', 'iter') if meta and not isinstance(meta.get(name), int)]
    if missing:
        raise ValueError(
            f'cannot resume from this checkpoint: wanted {missing} beside the weights, got {_first(checkpoint)}; '
            'to start a new run from its weights, set `load_from`.'
        )


def use_safe_loader() -> None:
    """Make mmengine load local files and URLs through the restricted unpickler, without its fallback."""
    CheckpointLoader.register_scheme('', _load_for_mmengine, force=True)
    CheckpointLoader.register_scheme(['http://', 'https://'], _load_url, force=True)


def fetch(url: str) -> Path:
    """The local copy of a published file, downloaded with a progress bar unless it is there.

    It lies where torch.hub keeps checkpoints; what its name says of its SHA-256 holds.

    Raises:
        ValueError: If it cannot be downloaded, or is another file than its name says.
    """
    path = Path(torch.hub.get_dir(), 'checkpoints', url.rpartition('/')[2])
    if not path.is_file():
        hashed = re.search(HASH_IN_NAME, path.name)
        print(f'weights: {url} -> {path}', flush=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=hashed[1] if hashed else None)
        except (OSError, RuntimeError) as error:
            got = ' '.join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"weights '{url}': wanted to download them, got {got}; put the file at '{path}', "
                'or start from random weights: --cfg-options model.backbone.init_cfg=None.'
            ) from None
    return _check_file(path)


def _sha256(file: BinaryIO) -> str:
    """Digest of a file, read in parts; ``hashlib.file_digest`` needs Python 3.11."""
    digest = hashlib.sha256()
    while part := file.read(2**20):
        digest.update(part)
    return digest.hexdigest()


def _load(path: str | PathLike, map_location: Any = 'cpu') -> Any:
    path = _check_file(path)
    if path.suffix == '.safetensors':
        return _load_safetensors(path)
    try:
        _check_archive(path)
        with _allow_list():
            content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if any(word in reason.lower() for word in ('global', 'unrecognized function', 'only create', 'only build')):
            name = reason.split('GLOBAL ')[-1].split()[0] if 'GLOBAL ' in reason else 'code'
            raise ValueError(
                f"checkpoint '{path}': wanted tensors and plain values, got {name}; "
                'refused, since loading it could run code.'
            ) from error
        raise _damaged(path) from error
    except Exception as error:  # torch reports damage by many types, depending on where the file breaks
        raise _damaged(path) from error
    return _state_grids(content)


def _state_grids(content: Any) -> Any:
    """State the grids of positions beside the weights where only the kept config tells them, as hosts save it."""
    if not isinstance(content, dict):
        return content
    for entry in WEIGHT_ENTRIES:
        if isinstance(weights := content.get(entry), Mapping):
            stated: Any = carry_metadata(weights, weights)
            for name, grid in kept_grids(weights, content.get('meta')).items():
                stated._metadata.setdefault(name, {}).setdefault('position_grid', grid)
                content[entry] = stated
    return content


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError  # noqa: PLC0415  # optional dependency
        from safetensors.torch import load_file  # noqa: PLC0415  # optional dependency
    except ImportError as error:
        raise ValueError(
            f"checkpoint '{path}': wanted the package safetensors, got none; pip install safetensors."
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, 'safetensors') from error


def _check_archive(path: Path) -> None:
    # torch.load does not compare checksums: flipped bits would become weights.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch.save stores without compression: more than the file holds is a bomb.
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise zipfile.BadZipFile
            if archive.testzip():
                raise zipfile.BadZipFile


def _check_file(path: str | PathLike) -> Path:
    """The local file that is meant, readable and, if its name ends in a hash, with the content of this hash.

    Raises:
        ValueError: If it is not.
    """
    if '://' in str(path):
        raise ValueError(f"checkpoint '{path}': wanted a local file, got an address; download it first.")
    try:
        path = Path(path).expanduser()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint '{str(path)[:80]}': wanted a file, got {error}.") from None
    if not found:
        raise ValueError(f"checkpoint '{path}': wanted a file, got none.")
    try:
        with path.open('rb') as file:
            hashed = re.search(HASH_IN_NAME, path.name)
            digest = _sha256(file) if hashed else ''
    except OSError as error:
        raise ValueError(f"checkpoint '{path}': wanted a file that can be read, got {error.strerror}.") from None
    if hashed and not digest.startswith(hashed[1]):
        raise ValueError(
            f"checkpoint '{path}': wanted content of SHA-256 {hashed[1]}..., as its name says, got {digest[:8]}...: "
            'damaged, or changed and to be renamed.'
        )
    return path


def _unfit_kind(value: Any) -> str:
    """Why a value is no weight; empty if it is one."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout is not torch.strided or value.is_quantized or value.is_complex():
        return f'{value.dtype} of layout {value.layout}'
    if value.is_meta:
        return 'a tensor without content'
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f'shape {tuple(value.shape)} over {value.untyped_storage().nbytes()} bytes'
    return ''


def _check_parts(checkpoint: Mapping[str, Any], path: str | PathLike) -> None:
    """Check that what stands beside the weights is of the kind that programs expect there."""
    hub = checkpoint.get('message_hub')
    parts = {name: checkpoint[name] for name in ('meta', 'message_hub') if checkpoint.get(name) is not None}
    if isinstance(hub, Mapping):
        parts |= {name: hub[name] for name in ('runtime_info', 'log_scalars') if name in hub}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise ValueError(f"checkpoint '{path}': wanted a dict as '{name}', got {type(part).__name__}.")
    odd = [value for value in parts.get('log_scalars', {}).values() if not isinstance(value, HistoryBuffer)]
    if odd:
        raise ValueError(f"checkpoint '{path}': wanted histories in 'log_scalars', got {type(odd[0]).__name__}.")


def _damaged(path: Path, writer: str = 'torch.save') -> ValueError:
    return ValueError(
        f"checkpoint '{path}': wanted a file written by {writer}, "
        f'got {path.stat().st_size} bytes that are truncated, corrupt or of another kind.'
    )


def _load_for_mmengine(filename: str, map_location: Any) -> Any:
    checkpoint = _load(filename, map_location)
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        # Runner.resume would execute this text as a Python config, only to compare GPU ids.
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _load_url(filename: str, map_location: Any = None) -> Any:
    if get_rank() == 0:  # one process of many downloads
        fetch(filename)
    barrier()
    return _load_for_mmengine(str(fetch(filename)), map_location)


def _history_buffer_method(owner: Any, name: str) -> Callable:
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError('Unsupported GLOBAL getattr')
    return getattr(HistoryBuffer, name)


def _named(function: Callable, module: str, name: str) -> Callable:
    """Let a function answer to a name in a pickle: the allow list goes by module and name."""

    def wrapper(*args):
        return function(*args)

    wrapper.__module__, wrapper.__name__, wrapper.__qualname__ = module, name, name
    return wrapper


# Both module names of numpy's functions: numpy 2 renamed the module, and checkpoints of either are read under either.
_ALLOWED = [
    HistoryBuffer,
    codecs.encode,  # how older pickles write bytes; torch allows it since 2.5
    _named(_history_buffer_method, 'builtins', 'getattr'),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in '?bhilqBHILQefdSU'},
    *(_named(multiarray.scalar, f'numpy.{core}.multiarray', 'scalar') for core in ('core', '_core')),
    *(_named(multiarray._reconstruct, f'numpy.{core}.multiarray', '_reconstruct') for core in ('core', '_core')),
]


@contextlib.contextmanager
def _allow_list() -> Iterator[None]:
    """Allow `_ALLOWED` and nothing that other code has allowed."""
    saved = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(saved)


def _first(names: Iterable[str], count: int = 3) -> str:
    names = [str(name) for name in names]
    return ', '.join(names[:count]) + (f' and {len(names) - count} more' if len(names) > count else '')
