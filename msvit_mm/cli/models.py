"""Models and runners that a command works with: built, checked, and with the weights of a checkpoint."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from ..backbones import GatedBackbone
from ..checkpoints import check_coverage, check_finite, check_shapes, load_checkpoint_safely
from ..engine.storage import use_atomic_files
from .images import check_data
from .machine import check_device, check_machine


def build_gated_model(cfg: Config, checkpoint: str | None, device: str) -> nn.Module:
    """Build the config's model in evaluation mode, with the weights of a checkpoint or random ones.

    Raises:
        ValueError: If the device or a model is absent, the backbone has no gate, or the checkpoint does not fit.
    """
    check_device(device)
    if 'model' not in cfg:
        raise ValueError(f"config '{cfg.filename}': wanted a model, got none.")
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    config = copy.deepcopy(cfg.model)  # hosts write into what they build from
    config.setdefault('data_preprocessor', cfg.get('data_preprocessor'))  # beside the model, as the runner takes it
    model = revert_sync_batchnorm(MODELS.build(config))
    if not isinstance(getattr(model, 'backbone', None), GatedBackbone):
        got = f'{type(model).__name__} over {type(getattr(model, "backbone", None)).__name__}'
        raise ValueError(f"config '{cfg.filename}': wanted a model over a gated backbone such as MSViT, got {got}.")
    if checkpoint:
        weights = load_checkpoint_safely(checkpoint)['state_dict']
        check_fits(model, weights)
        model.load_state_dict({name.removeprefix('module.'): value for name, value in weights.items()}, strict=False)
    return model.to(device).eval()


def check_regions(model: nn.Module, cfg: Config) -> None:
    """Check that a gated model chooses scales of regions, so that its choices have a threshold and can move.

    Raises:
        ValueError: If it routes tokens.
    """
    if model.backbone.region_size is None:
        got = f'{type(model.backbone).__name__}, which routes tokens'
        raise ValueError(f"config '{cfg.filename}': wanted a gate over regions (MSViT), got {got}.")


def check_segmentor(model: nn.Module, cfg: Config) -> None:
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
    if cfg.launcher == 'mpi':
        os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', '0'))
    if cfg.launcher == 'pytorch' and get_device() == 'cpu':
        # Before the runner, whose own initialisation selects a CUDA device first.
        torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
        cfg.pop('sync_bn', None)
        _replace_sync_bn(cfg.model)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def build_test_runner(cfg: Config, checkpoint: str) -> Runner:
    """Build a quiet runner of a checkpoint, whose ``test`` may be called again and again.

    Raises:
        ValueError: If machine or data lack something, or the checkpoint does not fit the model.
    """
    check_machine(cfg, train=False)
    check_data(cfg, 'test')
    weights = load_checkpoint_safely(checkpoint)['state_dict']
    cfg.load_from = checkpoint
    cfg.resume = False
    cfg.log_level = 'WARNING'
    cfg.randomness = {'seed': 0, **cfg.get('randomness', {})}
    runner = build_runner(cfg)
    check_fits(unwrap(runner.model), weights)
    return runner


def check_fits(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Check that weights by name are all that a model has, in its shapes, and finite.

    Raises:
        ValueError: If not.
    """
    state = model.state_dict()
    check_coverage(state, weights)
    check_shapes(state, weights)
    check_finite(weights)


def load_target_weights(model: nn.Module, path: str) -> dict[str, torch.Tensor]:
    """All weights of a target's checkpoint, whose own gate and priors may be absent.

    Raises:
        ValueError: If the checkpoint does not fit.
    """
    weights = load_checkpoint_safely(path)['state_dict']
    weights = {key.removeprefix('module.'): tensor for key, tensor in weights.items()}
    state = model.state_dict()
    check_coverage(state, weights, allowed_missing=('gate', 'gate_loss'))
    check_shapes(state, weights)
    if unexpected := [key for key in weights if key not in state]:
        raise ValueError(f"checkpoint '{path}': wanted weights of the target, got {len(unexpected)}: {unexpected[0]}.")
    return weights


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model below wrappers for distributed training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _replace_sync_bn(node: Any) -> None:
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        for child in node.values():
            _replace_sync_bn(child)
    elif isinstance(node, list | tuple):
        for child in node:
            _replace_sync_bn(child)
