"""Start from weights: whether those of a file are meant for the model, before a host skips what does not fit."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.model.weight_init import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import Tensor, nn

from ..backbones import GatedBackbone
from ..backbones.embedding import source_grid
from ..datasets.configs import type_name
from .convert import RULES, fit_weights, rename_keys
from .loading import _first, carry_metadata, check_shapes, find_weights, metadata_of

# Weights whose shape is the number of classes: of these another number is no mistake.
CLASS_WEIGHTS = r'(.+\.)?(conv_seg|cls_emb|mask_norm|fc_cls|fc_reg|conv_logits|head\.fc|layers\.head)(\..+)?'
SCALE_WEIGHTS = r'(.+\.)?gate\.(gates\.\d+\..+|scale_biases)'  # of a gate that decides several scales
PRETRAINED = ('Pretrained', 'PretrainedInit')  # by name, and by class in pure-Python configs

# Parts that begin as zero, so that a network may start without them, and what asks for them.
ZERO_PARTS = dict(
    coarse_pixels="model.backbone.coarse_embedding='own'",
    detail='model.backbone.detail=dict(hidden_dims=..., levels=...), of a head that works on tokens its own',
)
OPTIONAL = ('gate', 'gate_loss', 'utility_loss', *ZERO_PARTS)  # what a network may lack that starts another


def needed_keys(model: nn.Module) -> list[str]:
    """Names of a model's weights without those that a network may lack that starts it, dense or with another gate."""
    return [
        key
        for key in model.state_dict()
        if not set(key.split('.')) & set(OPTIONAL) and not re.fullmatch(_additions(model), key)
    ]


def check_start(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Check that weights fit a module that starts from them.

    Of a gated model, each part (the backbone but its gate, the gate, each head) gets all of its weights or none; every
    other module at least one. Shapes agree but in a new head's classes (`CLASS_WEIGHTS`).

    Args:
        where: Begins the message.

    Raises:
        ValueError: If they do not fit.
    """
    state = module.state_dict()
    weights = {str(key).removeprefix('module.'): tensor for key, tensor in weights.items()}
    shared = [key for key in state if key in weights]
    if not shared:
        wanted = f'some of the {len(state)} weights of {type(module).__name__}, such as {next(iter(state), None)}'
        raise ValueError(f'{where}: wanted {wanted}, got {_first(weights) or "none"}.')
    check_parts(state, weights, where)
    check_scales(state, weights, where)
    if missing := _missing(module, state, weights):
        raise ValueError(f'{where}: wanted whole parts of {type(module).__name__}, got none of {_first(missing)}.')
    of_classes = {key for key in shared if re.fullmatch(CLASS_WEIGHTS, key)}
    check_shapes(state, {key: weights[key] for key in shared if key not in of_classes})
    check_shapes({}, {key: weights[key] for key in of_classes})


def absent_parts(state: Iterable[str], weights: Iterable[str]) -> list[str]:
    """Parts of a model that begin as zero and of which weights know nothing.

    Example:
        >>> absent_parts(['backbone.ln1.bias', 'backbone.detail.pixels.bias'], ['backbone.ln1.bias'])
        ['backbone.detail']
    """
    return sorted(_zero_parts(state) - _zero_parts(weights))


def fresh_parts(module: nn.Module, weights: Iterable[str]) -> list[str]:
    """Further parts that a dense network lacks and of which weights know nothing, of a gated model."""
    known, additions = {'gate', *ZERO_PARTS}, _additions(module)
    missing = [key.split('.') for key in set(module.state_dict()) - set(weights) if re.fullmatch(additions, key)]
    return sorted({'.'.join(names[:2]) for names in missing if not known & set(names)})


def check_parts(state: Iterable[str], weights: Iterable[str], where: str) -> None:
    """Check that a model has the parts that weights were trained with: without them coarse tokens mean something else.

    Raises:
        ValueError: If it lacks one.
    """
    for part in absent_parts(weights, state):
        words = ZERO_PARTS[part.rpartition('.')[2]]
        raise ValueError(f'{where}: wanted a model with {part}, which the weights have, got one without; set {words}.')


def check_scales(state: Iterable[str], weights: Iterable[str], where: str) -> None:
    """Check that a model with a learned gate decides every scale that weights have a gate for.

    Raises:
        ValueError: If one of these gates would be left out.
    """
    gates = {key for key in state if 'gate' in key.split('.')}
    left = [key for key in weights if re.fullmatch(SCALE_WEIGHTS, key) and key not in gates]
    if gates and left:
        raise ValueError(
            f'{where}: wanted a gate of no more scales than the model, got {_first(left)}; '
            'set model.backbone.patch_sizes as in the training of the weights.'
        )


def adopt_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights of a host's segmentor over a plain vision transformer under this model's names; all others as they are.

    mmseg's own transformer has other names for attention than mmpretrain's; heads and necks have the same.

    Raises:
        ValueError: If the transformer does not fit.
    """
    inner = {key.removeprefix('backbone.'): value for key, value in weights.items() if key.startswith('backbone.')}
    backbone: Any = getattr(model, 'backbone', None)
    families = getattr(backbone, 'weight_families', ())
    if 'mmseg' not in families or not any(re.fullmatch(RULES['mmseg'][0], key) for key in inner):
        return weights
    conversion, own = rename_keys(inner), tuple(backbone.patch_resolution)
    stated = metadata_of(weights).get('backbone', {}).get('position_grid')
    count = inner['pos_embed'].shape[1] - conversion.extra_tokens[0] if 'pos_embed' in inner else 0
    fit_weights(conversion, backbone, own, source_grid(count, own, stated))
    others = {key: value for key, value in weights.items() if not key.startswith('backbone.')}
    adopted: Any = carry_metadata(
        others | {f'backbone.{key}': value for key, value in conversion.state_dict.items()}, weights
    )
    adopted._metadata.setdefault('backbone', {})['position_grid'] = own
    return adopted


def weights_below(checkpoint: Mapping[str, Any], prefix: str | None) -> 'OrderedDict[str, Tensor]':
    """The weights of a loaded checkpoint, or of the part below a prefix, by the names of this part.

    What the saving modules said of themselves (``_metadata``) stays with them.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {re.sub(r'^module\.', '', key): value for key, value in weights.items()}
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    metadata = metadata_of(checkpoint.get('state_dict', checkpoint))
    inner: Any = OrderedDict(
        (key.removeprefix(prefix), value) for key, value in weights.items() if key.startswith(prefix)
    )
    below = ((f'{key}.', value) for key, value in metadata.items())
    inner._metadata = {key.removeprefix(prefix)[:-1]: value for key, value in below if key.startswith(prefix)}
    return inner


class CheckedPretrained(PretrainedInit):
    """mmengine's ``Pretrained``, which stops at a file that does not fit where the other only warns.

    Args:
        checkpoint: A file, or an address that is downloaded once.
        prefix: The part of the file that is meant, such as ``'backbone'``.
        map_location: Where tensors are loaded.
        convert: Whether the file is of another library, to be converted as by ``msvit convert-checkpoint``.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: str = 'cpu', convert: bool = False
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)
        self.convert = convert

    def __call__(self, module: nn.Module) -> None:
        weights = self.read(module)
        try:
            check_start(module, weights, f"init_cfg '{self.checkpoint}'")
        except ValueError as error:
            if self.convert or (family := self._family(module)) is None:
                raise
            raise ValueError(f'{error} The file holds weights of {family}: add convert=True to init_cfg.') from None
        load_state_dict(module, weights, strict=False, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _family(self, module: Any) -> str | None:
        """The library whose weights the file holds, if they can be converted to the module's."""
        checkpoint = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        try:
            family = rename_keys(find_weights(checkpoint, '')[0], self.prefix).family
        except ValueError:
            return None
        return family if family in getattr(module, 'weight_families', ()) else None

    def read(self, module: Any) -> 'OrderedDict[str, Tensor]':
        """The weights that a module starts from, by its names."""
        checkpoint = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location)
        if not self.convert:
            weights = weights_below(checkpoint, self.prefix)
            adopted = module.adopt(weights) if isinstance(module, GatedBackbone) else weights
            return weights if adopted is weights else carry_metadata(adopted, weights)
        where = f"init_cfg '{self.checkpoint}'"
        conversion, state = rename_keys(find_weights(checkpoint, where)[0], self.prefix), module.state_dict()
        if conversion.family not in (families := getattr(module, 'weight_families', ())):
            wanted = f'weights of {" or ".join(families) or "nothing that is converted"} for {type(module).__name__}'
            raise ValueError(f'{where}: wanted {wanted}, got those of {conversion.family}.')
        fit_weights(conversion, module, None if conversion.is_pyramid else module.patch_resolution)
        return carry_metadata(conversion.state_dict, state)


def addresses(config: Any) -> Iterator[str]:
    """Addresses of published weights in the recipes (``init_cfg``) of a model's config."""
    if isinstance(config, Mapping):
        recipe = config.get('init_cfg')
        if isinstance(recipe, Mapping) and type_name(recipe) in PRETRAINED and '://' in recipe['checkpoint']:
            yield recipe['checkpoint']
    values = config.values() if isinstance(config, Mapping) else config if isinstance(config, list | tuple) else ()
    for value in values:
        yield from addresses(value)


def forget_addresses(model: nn.Module) -> None:
    """Let a model that gets all its weights otherwise not want published ones."""
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if any(addresses(dict(init_cfg=getattr(module, 'init_cfg', None)))):
            module.init_cfg = None


def use_checked_init() -> None:
    """Make ``init_cfg=dict(type='Pretrained', ...)`` stop at files that do not fit."""
    WEIGHT_INITIALIZERS.register_module(name='Pretrained', module=CheckedPretrained, force=True)


def _missing(module: nn.Module, state: Iterable[str], weights: Mapping[str, Tensor]) -> list[str]:
    if not isinstance(getattr(module, 'backbone', module), GatedBackbone):
        return []
    is_backbone = isinstance(module, GatedBackbone)
    whole = {'gate', *ZERO_PARTS}
    started = {_part(key, is_backbone) for key in state if key in weights}
    lacked = rf'{_additions(module)}|.*num_batches_tracked'
    # the keys of gates and of what begins as zero are lacked by nature as well, but not some of them
    return [
        key
        for key in state
        if key not in weights
        and _part(key, is_backbone) in started
        and (whole & set(key.split('.')) or not re.fullmatch(lacked, key))
    ]


def _additions(module: nn.Module) -> str:
    """What a dense network lacks of a gated one or of its backbone: a regular expression of names of weights."""
    backbone = getattr(module, 'backbone', module)
    prefix = '' if backbone is module else r'backbone\.'
    return rf'{prefix}(?:{getattr(backbone, "additions", "(?!)")})'  # of another backbone nothing


def _zero_parts(keys: Iterable[str]) -> set[str]:
    """Dotted names of the parts that begin as zero among keys of a state dict."""
    pattern = rf'(?:module\.)?((?:.+\.)?(?:{"|".join(ZERO_PARTS)}))\..+'
    return {match[1] for key in keys if (match := re.fullmatch(pattern, key))}


def _part(key: str, is_backbone: bool) -> str:
    names = key.split('.')
    if inner := [name for name in ('gate', *ZERO_PARTS) if name in names]:
        return key.partition(inner[0])[0] + inner[0]
    return '' if is_backbone else names[0]
