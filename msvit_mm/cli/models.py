"""Models and runners that a command works with: built, checked, and with the weights of a checkpoint."""

import colorsys
import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from rich.progress import Progress
from torch import nn
from torch.utils.data import DataLoader

from ..backbones import GatedBackbone
from ..backbones.base import image_size
from ..checkpoints import (
    check_coverage,
    check_finite,
    check_shapes,
    load_checkpoint_safely,
    load_from_hub,
    load_kept_config,
)
from ..checkpoints.starting import (
    PRETRAINED,
    CheckedPretrained,
    absent_parts,
    adopt_weights,
    check_parts,
    check_start,
    fresh_parts,
    needed_keys,
    use_checked_init,
    weights_below,
)
from ..datasets.configs import type_name
from ..datasets.named import NamedSamples
from ..engine.storage import use_atomic_files
from ..models import GatedEncoderDecoder, GatedModel
from ..studies.prediction import token_range
from .config import load_config, merge_options
from .config_checks import check_config, check_model, classes_of, metainfo_of
from .errors import foreign_errors, one_line_errors
from .images import check_data, load_split
from .machine import check_device, check_machine


def build_gated_model(cfg: Config, checkpoint: str | None, device: str) -> GatedModel:
    """Build the config's model in evaluation mode, with the weights of a checkpoint or random ones.

    Raises:
        ValueError: If the device or a model is absent, the backbone has no gate, or the checkpoint does not fit.
    """
    check_device(device)
    if not cfg.get('model'):
        raise ValueError(f"config '{cfg.filename}': wanted a model, got none.")
    check_model(cfg)
    config = copy.deepcopy(cfg.model)  # hosts write into what they build from
    config.setdefault('data_preprocessor', cfg.get('data_preprocessor'))  # beside the model, as the runner takes it
    with foreign_errors(f"config '{cfg.filename}'"):
        model = revert_sync_batchnorm(MODELS.build(config))
    if not isinstance(getattr(model, 'backbone', None), GatedBackbone):
        got = f'{type(model).__name__} over {type(getattr(model, "backbone", None)).__name__}'
        raise ValueError(f"config '{cfg.filename}': wanted a model over a gated backbone such as MSViT, got {got}.")
    if checkpoint:
        weights = weights_below(load_checkpoint_safely(checkpoint), None)
        check_fits(model, weights)
        model.load_state_dict(weights, strict=False)
    return model.to(device).eval()


def load_trained_segmentor(
    checkpoint: str, config: str | None = None, options: Mapping[str, Any] | None = None, device: str = 'cpu'
) -> GatedEncoderDecoder:
    """A gated segmentor of a checkpoint, with its config as ``cfg``, classes and colours as ``dataset_meta``.

    Args:
        checkpoint: Of a training run, or published: a file, or a folder of ``msvit publish-model``.
        config: Instead of the config that the checkpoint keeps.
        options: Entries to override in the config.
        device: Where the model goes.

    Raises:
        ValueError: If the checkpoint keeps no config, does not fit, or is of no gated segmentor.
    """
    if Path(checkpoint).is_dir():
        check_device(device)
        return _load_folder(checkpoint, config, options).to(device)
    if config:
        cfg = load_config(config, options)
    else:
        cfg = load_kept_config(checkpoint)
        object.__setattr__(cfg, '_filename', str(checkpoint))  # what errors name
        merge_options(cfg, options or {})
    model = build_gated_model(cfg, checkpoint, device)
    check_segmentor(model, cfg)
    model.cfg = cfg
    model.dataset_meta = _dataset_meta(cfg, checkpoint, model)
    return cast(GatedEncoderDecoder, model)


def _load_folder(folder: str, config: str | None, options: Mapping[str, Any] | None) -> GatedEncoderDecoder:
    """A segmentor of a published folder, whose config is its own."""
    if config or options:
        got = config or dict(options or {})
        raise ValueError(f"'{folder}': wanted no other config for a published folder, got {got}.")
    with foreign_errors(f"'{folder}'"):
        model: Any = load_from_hub(folder)
    object.__setattr__(model.cfg, '_filename', str(folder))
    check_segmentor(model, model.cfg)
    model.dataset_meta = _complete(model.dataset_meta, model)
    return model


def _dataset_meta(cfg: Config, checkpoint: str, model: Any) -> dict[str, Any]:
    """Names and colours of the classes: those that the checkpoint keeps, or the data set's."""
    kept = load_checkpoint_safely(checkpoint).get('meta', {}).get('dataset_meta') or {}
    classes = kept.get('classes') or classes_of(cfg, 'test')
    palette = kept.get('palette') or metainfo_of(cfg, 'test').get('palette')
    return _complete(dict(classes=classes, palette=palette), model)


def _complete(meta: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Names and colours of the classes where nobody gave them: their numbers, and distinct ones."""
    classes = list(meta.get('classes') or map(str, range(model.decode_head.num_classes)))
    return dict(meta, classes=classes, palette=meta.get('palette') or _colours(len(classes)))


def _colours(count: int) -> list[list[int]]:
    """Distinct colours, the same ones every time."""
    hues = [i * 0.618 % 1 for i in range(count)]
    return [[round(255 * x) for x in colorsys.hsv_to_rgb(hue, 0.7, 0.9)] for hue in hues]


def check_regions(model: GatedModel, cfg: Config) -> None:
    """Check that a gated model chooses scales of regions, so that its choices have a threshold and can move.

    Raises:
        ValueError: If it routes tokens.
    """
    if model.backbone.region_size is None:
        got = f'{type(model.backbone).__name__}, which routes tokens'
        raise ValueError(f"config '{cfg.filename}': wanted a gate over regions (MSViT), got {got}.")


def check_budgets(name: str, budgets: Sequence[float], cfg: Config, device: str) -> None:
    """Check that the first test image can be predicted under token budgets of a model of this name.

    Raises:
        ValueError: If not.
    """
    if not budgets:
        return
    network = build_gated_model(cfg, None, device)
    check_segmentor(network, cfg)
    check_regions(network, cfg)
    inputs = network.data_preprocessor(load_split(cfg, 'test', 1)[0])['inputs']
    low, high = token_range(cast(GatedEncoderDecoder, network), image_size(inputs))
    if wrong := [budget for budget in budgets if not low <= budget <= high]:
        wanted = f'budgets of {low} (all coarse) to {high} (all fine) tokens'
        raise ValueError(f"model '{name}': wanted {wanted}, got {wrong[0]:g}.")


def check_segmentor(model: GatedModel, cfg: Config) -> None:
    """Check that a model is a segmentor over a gated backbone.

    Raises:
        ValueError: If not.
    """
    if not (hasattr(model, 'decode_head') and isinstance(model.backbone, GatedBackbone)):
        got = f'{type(model).__name__} over {type(model.backbone).__name__}'
        raise ValueError(f"config '{cfg.filename}': wanted a segmentor over a gated backbone, got {got}.")


def build_runner(cfg: Config) -> Runner:
    """Build the runner; without a GPU, processes talk through gloo and SyncBN becomes BN.

    A checkpoint is written beside its final name and then renamed: an interrupted save leaves the older file as it was.
    """
    use_atomic_files()
    use_checked_init()
    if cfg.launcher == 'mpi':
        os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', '0'))
    if cfg.launcher == 'pytorch' and get_device() == 'cpu':
        # Before the runner, whose own initialisation selects a CUDA device first.
        torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
        cfg.pop('sync_bn', None)
        _replace_sync_bn(cfg.model)
    with foreign_errors(f"config '{cfg.filename}'"):
        runner: Any = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    build = runner.build_dataloader
    runner.build_dataloader = lambda *args, **words: _name_samples(build(*args, **words))
    runner.register_hook(_CheckWeightsHook(), priority='LOWEST')
    return runner


def build_loops(runner: Any, *splits: str) -> None:
    """Build the loops of a runner with their data sets, which it would build late, and end in one line if these fail.

    Args:
        splits: Of 'train', 'val', 'test'.
    """
    with one_line_errors(ValueError, OSError):
        for split in splits:
            with foreign_errors(f'{split} loop of the config'):
                getattr(runner, f'{split}_loop')


def _name_samples(loader: DataLoader) -> DataLoader:
    """Let a loader's samples name their files where they cannot be read."""
    if not isinstance(loader.dataset, NamedSamples):  # around DataLoader's guard: no iterator has been made yet
        object.__setattr__(loader, 'dataset', NamedSamples(loader.dataset))
    return loader


def build_test_runner(cfg: Config, checkpoint: str) -> Runner:
    """Build a quiet runner of a checkpoint, whose ``test`` may be called again and again.

    Raises:
        ValueError: If a word of the config is none, machine or data lack something, or the checkpoint does not fit.
    """
    check_config(cfg)
    check_machine(cfg, train=False)
    check_data(cfg, 'test')
    weights = load_checkpoint_safely(checkpoint)['state_dict']
    cfg.load_from = checkpoint
    cfg.resume = False
    cfg.log_level = 'WARNING'
    cfg.randomness = {'seed': 0, **cfg.get('randomness', {})}
    runner = build_runner(cfg)
    runner.register_hook(_ProgressHook())
    check_fits(unwrap(runner.model), weights)
    return runner


def check_fits(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Check that weights by name are all that a model has, in its shapes, and finite; say what begins as zero.

    Raises:
        ValueError: If not.
    """
    state = model.state_dict()
    check_parts(state, weights, 'the checkpoint does not fit the model')
    absent = tuple(f'{part}.' for part in say_absent_parts(model, weights))
    wanted = [key for key in state if not key.startswith(absent)]
    check_coverage(wanted, weights, allowed_missing=('utility_loss',))  # a state of training, no weights
    check_shapes(state, weights)
    check_finite(weights)


def say_absent_parts(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Parts of which weights know nothing and that begin as zero; the log says so."""
    absent = absent_parts(model.state_dict(), weights)
    if absent:
        print_log(f'No weights of {", ".join(absent)}: zero, as if they were not there, until they learn.', 'current')
    return absent


def load_target_weights(model: nn.Module, path: str) -> dict[str, torch.Tensor]:
    """All weights of a target's checkpoint, whose own gate and priors may be absent.

    Raises:
        ValueError: If the checkpoint does not fit.
    """
    weights = weights_below(load_checkpoint_safely(path), None)
    state = model.state_dict()
    check_parts(state, weights, f"checkpoint '{path}'")
    check_coverage(needed_keys(model), weights)
    check_shapes(state, weights)
    if unexpected := [key for key in weights if key not in state]:
        raise ValueError(f"checkpoint '{path}': wanted weights of the target, got {len(unexpected)}: {unexpected[0]}.")
    return weights


def unwrap(model: Any) -> Any:
    """Return the model below wrappers for distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


class _ProgressHook(Hook):
    """A bar over the batches of a test, for runners that log nothing."""

    def before_test(self, runner: Runner) -> None:
        self.bar = Progress(transient=True)
        self.task = self.bar.add_task('testing', total=len(runner.test_dataloader))
        self.bar.start()

    def after_test_iter(self, *args: Any, **kwargs: Any) -> None:
        self.bar.advance(self.task)

    def after_test(self, runner: Runner) -> None:
        self.bar.stop()


class _CheckWeightsHook(Hook):
    """Stop, in one line, at weights that the host would skip with a warning."""

    def before_run(self, runner: Runner) -> None:
        if not isinstance(runner._train_loop, BaseLoop) or runner._resume:
            return  # weights of recipes would go anyway
        with one_line_errors():
            for name, module in unwrap(runner.model).named_modules():
                recipe = getattr(module, 'init_cfg', None)
                if isinstance(recipe, dict) and type_name(recipe) in PRETRAINED:
                    words = {name: value for name, value in recipe.items() if name != 'type'}
                    where = f"init_cfg '{recipe['checkpoint']}'" + (f' of {name}' if name else '')
                    check_start(module, CheckedPretrained(**words).read(module), where)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        with one_line_errors():
            model, weights = unwrap(runner.model), checkpoint.get('state_dict', checkpoint)
            if isinstance(runner._train_loop, BaseLoop) and not runner._resume:
                weights = adopt_weights(model, weights)
                if 'state_dict' in checkpoint:
                    checkpoint['state_dict'] = weights
                check_start(model, weights, f"load_from '{runner._load_from}'")
                say_absent_parts(model, weights)
                if fresh := fresh_parts(model, weights):
                    print_log(f'No weights of {", ".join(fresh)}: as the config initialises them.', 'current')
            else:
                check_fits(model, weights)


def _replace_sync_bn(node: Any) -> None:
    if isinstance(node, dict):
        if type_name(node) in ('SyncBN', 'SyncBatchNorm'):
            node['type'] = 'BN'
        for child in node.values():
            _replace_sync_bn(child)
    elif isinstance(node, list | tuple):
        for child in node:
            _replace_sync_bn(child)
