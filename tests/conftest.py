"""Tiny models for every test: two layers, 32 channels, non-square images, and no parameter at a special value."""

import copy
import logging
import os
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

import msvit_mm  # noqa: F401


@pytest.fixture(scope='session', autouse=True)
def quiet_logger():
    MMLogger.get_current_instance().setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    init_default_scope('mmseg')


def _label_maps():
    maps = {
        'patches': torch.arange(6).reshape(2, 3).repeat_interleave(17, 0).repeat_interleave(25, 1) % 3,
        'noise': torch.randint(3, (40, 70), generator=torch.Generator().manual_seed(0)),
        'sparse': (torch.rand(70, 45, generator=torch.Generator().manual_seed(1)) < 0.002).long(),
        'constant': torch.ones(33, 40, dtype=torch.long),
        'all ignored': torch.full((33, 40), 255),
    }
    ignored = maps['patches'].clone()
    ignored[10:24, 20:40] = 255
    return maps | {'ignored': ignored}


@pytest.fixture(params=_label_maps().items(), ids=lambda item: item[0])
def labels(request):
    """A label map of three classes, 255 = ignored."""
    return request.param[1].clone()


@pytest.fixture(scope='session')
def imagenet_root(tmp_path_factory):
    """A folder in ImageNet's layout: a small image of noise for each of 1000 synsets; val is train."""
    root = tmp_path_factory.mktemp('imagenet')
    generator = np.random.default_rng(0)
    images = [cv2.imencode('.jpg', generator.integers(0, 255, (60, 80, 3), np.uint8))[1].tobytes() for _ in range(8)]
    for label in range(1000):
        folder = root / 'train' / f'n{label:08d}'
        folder.mkdir(parents=True)
        (folder / f'n{label:08d}_0.JPEG').write_bytes(images[label % len(images)])
    (root / 'val').symlink_to('train')
    return root


@pytest.fixture(scope='session')
def tiny_arch():
    return dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


@pytest.fixture(scope='session')
def perturb():
    """Move every parameter off its initial value: biases, layer scale, position embedding and class token count."""

    def move(module, std=0.2, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                scale = std / 10 if 'gate.' in name else std  # a gate of large logits would decide everything alike
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
        return module

    return move


@pytest.fixture(scope='session')
def make_msvit(tiny_arch, perturb):
    """Build a tiny MSViT of 16- and 32-pixel patches, with a gate whose decisions differ, in evaluation mode."""

    def make(gate=None, **kwargs):
        gate = gate or dict(type='ScaleGate', initial_ratio=0.5)
        config = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=gate, counterfactual_share=1.0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return perturb(MODELS.build(config | kwargs)).eval()

    return make


@pytest.fixture(scope='session')
def random_decisions():
    """Random maps over the regions of 32 pixels that cover an image; each image of the batch has its own share."""

    def draw(batch, height, width, seed=0):
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, -(-height // 32), -(-width // 32))
        thresholds = torch.linspace(0.25, 0.75, batch)[:, None, None]
        return (torch.rand(shape, generator=generator) < thresholds).float()

    return draw


@pytest.fixture
def trained(tmp_path):
    """Give the config of a network a file of weights to load."""

    def store(config):
        path = tmp_path / 'trained.pth'
        torch.save(dict(state_dict=MODELS.build(copy.deepcopy(config)).state_dict()), path)
        return config | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path)))

    return store


@pytest.fixture
def run_in_two_processes(tmp_path):
    """Run a test file twice at once, with rank and ``tmp_path`` as its arguments, and check that both end well.

    Where one fails the other, which would wait for it, is killed.
    """

    def call(file):
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'OMP_NUM_THREADS': '1'}
        commands = [[sys.executable, file, str(rank), str(tmp_path)] for rank in range(2)]
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        until = time.monotonic() + 1800  # slow is a machine that has much to do
        try:
            while [process.poll() for process in processes].count(0) < 2:
                assert not any(process.poll() for process in processes) and time.monotonic() < until
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()

    return call
