"""What is wrong with a config, in one line with the nearest name, before anything is built or read."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, Registry, init_default_scope

from ..backbones import GatedBackbone, registered_backbones
from ..datasets.configs import datasets_of, type_name
from ..gates import registered

HEADS = ('decode_head', 'auxiliary_head', 'head')
PARTS = ('neck', *HEADS, 'gate_loss', 'utility_loss', 'boundary_loss', 'teacher_loss')  # a backbone says more
SPLITS = ('train', 'val', 'test')
OWN = __name__.partition('.')[0]


def check_config(cfg: Config) -> None:
    """Check names and numbers of a config that users change and hosts report late or obscurely.

    The words of model and data sets, and that classes, heads, class weights and labels agree.

    Raises:
        ValueError: With one line, if something does not fit.
    """
    check_model(cfg)
    _check_lengths(cfg.get('train_cfg') or {})
    for split in SPLITS:
        for dataset in datasets_of(cfg, split):
            if dataset:
                _check_part(f'{split} data', dataset, DATASETS)
    _check_classes(cfg)


def check_entries(cfg: Config, *names: str) -> None:
    """Check that a config has the entries that a command works with.

    Raises:
        ValueError: If one is absent or None.
    """
    if missing := [name for name in names if not cfg.get(name)]:
        raise ValueError(f"config '{cfg.filename}': wanted {', '.join(names)}, got no {' and no '.join(missing)}.")


def check_model(cfg: Config) -> None:
    """Check that a config's model and its parts are registered, and know their words where they are of this package.

    Raises:
        ValueError: With one line, if not.
    """
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    model = cfg.get('model') or {}
    if not model:
        return
    _check_part('model', model)
    for name in PARTS:
        for part in _as_list(model.get(name)):
            _check_part(name, part)
    backbone = model.get('backbone') or {}
    cls = _backbone_class(backbone.get('type'))
    if cls is not None:
        _check_words(f'backbone {cls.__name__}', backbone, cls)
        _check_gate(backbone.get('gate'), cls)
        _check_gate(model.get('warmup_gate'), cls)


def classes_of(cfg: Config, split: str = 'train') -> list[str] | None:
    """Names of the classes of a config's data set, if it says them.

    Args:
        split: 'train', 'val' or 'test'.
    """
    classes = metainfo_of(cfg, split).get('classes')
    return list(classes) if classes else None


def metainfo_of(cfg: Config, split: str) -> dict[str, Any]:
    """What a config's data set says of its classes; of several below a wrapper, which have to agree, the first."""
    dataset = datasets_of(cfg, split)[0]
    cls = named = dataset.get('type')
    if isinstance(named, str):
        init_default_scope(cfg.get('default_scope') or 'mmseg')
        with DATASETS.switch_scope_and_registry(None) as own:  # hosts register theirs below mmengine's
            cls = own.get(named)
    classes = dataset.get('classes')  # mmpretrain's word for them
    own_classes = dict(classes=classes) if isinstance(classes, list | tuple) else {}
    return {**getattr(cls, 'METAINFO', {}), **(dataset.get('metainfo') or {}), **own_classes}


def _backbone_class(name: Any) -> type[GatedBackbone] | None:
    """The gated backbone of this name, or None for a host's."""
    if isinstance(name, type):
        return name if issubclass(name, GatedBackbone) else None
    found = MODELS.get(name) if name else None
    if found is None and name:
        own = registered_backbones()
        close = _close(name.rpartition('.')[2], own)
        raise ValueError(f'backbone: wanted a registered one, got {name!r}{close or f"; here are {_list(own)}"}.')
    return found if isinstance(found, type) and issubclass(found, GatedBackbone) else None


def _check_part(what: str, config: Mapping[str, Any], registry: Registry = MODELS) -> None:
    """Check that a part is registered, and if it is of this package that it takes the words."""
    named = config.get('type')
    if not isinstance(named, str):
        return  # a class, or for the registry to complain about
    with registry.switch_scope_and_registry(None) as own:
        cls = own.get(named)
        names = {**registry.module_dict, **own.module_dict}
    if cls is None:
        raise ValueError(f'{what}: wanted a registered one, got {named!r}{_close(named.rpartition(".")[2], names)}.')
    if getattr(cls, '__module__', '').partition('.')[0] == OWN:
        _check_words(f'{what} {cls.__name__}', config, cls)


def _check_gate(gate: Any, backbone: type[GatedBackbone]) -> None:
    if isinstance(gate, str):
        raise ValueError(f"gate of {backbone.__name__}: wanted a config such as dict(type='{gate}'), got {gate!r}.")
    if not isinstance(gate, Mapping):
        return
    gates = registered(backbone.gate_family)
    name = gate.get('type')
    cls = name if isinstance(name, type) else MODELS.get(name or '')
    if cls not in gates.values():
        raise ValueError(
            f'gate of {backbone.__name__}: wanted one of {_list(gates)}, got {name!r}{_close(str(name), gates)}.'
        )
    _check_words(f'gate {cls.__name__}', gate, cls)


def _check_words(what: str, config: Mapping[str, Any], cls: type) -> None:
    words = _words_of(cls)
    for word in config:
        if word not in ('type', '_scope_') and words is not None and word not in words:
            raise ValueError(f'{what}: wanted words of its constructor, got {word!r}{_close(word, words)}.')


def _words_of(cls: type) -> set[str] | None:
    """All words that a constructor takes, those of its parents through ``**kwargs`` included; None for any word."""
    words: set[str] = set()
    for parent in cls.__mro__:
        if '__init__' not in vars(parent):
            continue
        own: Any = vars(parent)['__init__']
        parameters = inspect.signature(own).parameters.values()
        if parent is object:
            return None
        words |= {x.name for x in parameters if x.kind not in (x.VAR_KEYWORD, x.VAR_POSITIONAL)} - {'self'}
        if not any(x.kind == x.VAR_KEYWORD for x in parameters):
            return words
    return None


def _check_lengths(loop: Mapping[str, Any]) -> None:
    for name in ('max_iters', 'max_epochs', 'val_interval'):
        value = loop.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f'train_cfg.{name}: wanted a whole number of at least 1, got {value!r}.')


def _check_classes(cfg: Config) -> None:
    classes = classes_of(cfg)
    numbers = {'the data set': len(classes)} if classes else {}
    for loader in SPLITS:
        for step in (step for dataset in datasets_of(cfg, loader) for step in dataset.get('pipeline') or ()):
            if type_name(step) == 'CheckLabels':
                numbers[f'CheckLabels of {loader}'] = step['num_classes']
    for name, head in _heads(cfg):
        if isinstance(head.get('num_classes'), int):
            numbers[name] = head['num_classes']
    if len(set(numbers.values())) > 1:
        got = ', '.join(f'{number} of {name}' for name, number in numbers.items())
        raise ValueError(
            f'num_classes: wanted one number everywhere, got {got}; class names, heads and labels go together.'
        )
    for name, head in _heads(cfg):
        for loss in _as_list(head.get('loss_decode') or head.get('loss')):
            weights = loss.get('class_weight')
            if isinstance(weights, Sequence) and not isinstance(weights, str):
                wanted = head.get('num_classes')
                if wanted is not None and len(weights) != wanted:
                    raise ValueError(
                        f'class_weight of {name}: wanted {wanted} numbers, one for each class, got {len(weights)}.'
                    )


def _heads(cfg: Config) -> Iterable[tuple[str, Mapping[str, Any]]]:
    model = cfg.get('model') or {}
    for name in HEADS:
        for head in _as_list(model.get(name)):
            yield name, head


def _as_list(value: Any) -> list:
    return [x for x in (value if isinstance(value, list | tuple) else [value]) if isinstance(x, Mapping)]


def _close(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, list(names), n=2)
    return f'; close are {", ".join(close)}' if close else ''


def _list(names: Iterable[str]) -> str:
    return ', '.join(names)
