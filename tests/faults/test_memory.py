"""Memory of predictions: flat over many of random sizes, and of a photograph as stated."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.cli.models import load_trained_segmentor
from msvit_mm.studies.prediction import predict_image

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / 'configs' / 'msvit_upernet_scenes.py'
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16)
PREDICTIONS, SETTLED, GROWTH = 10_000, 2_000, 20  # the last in MB


def resident_mb():
    """Memory of this process that is in use."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """The Scenes segmentor with small layers and random weights, its gate of two minds."""
    path = tmp_path_factory.mktemp('memory') / 'a.pth'
    options = dict(
        model=dict(
            backbone=dict(arch=dict(_delete_=True, **ARCH), out_indices=[1]),
            neck=None,
            auxiliary_head=None,
            decode_head=dict(
                _delete_=True, type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=10, norm_cfg=None
            ),
        )
    )
    config = path.with_name('small.py')
    config.write_text(f'_base_ = {str(CONFIG)!r}\nmodel = {options["model"]}\n')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    built = MODELS.build(Config.fromfile(config).model)
    torch.nn.init.normal_(built.backbone.gate.layers[-1].weight, std=30)
    torch.save(dict(state_dict=built.state_dict(), meta={}), path)
    return load_trained_segmentor(str(path), str(config))


def test_memory_stays_flat(model):
    generator, rng = random.Random(0), np.random.default_rng(0)
    noise = rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)
    settled, most = 0.0, 0.0
    for index in range(PREDICTIONS):
        size = [int(2 ** generator.uniform(4, 8)) for _ in range(2)]
        prediction = predict_image(model, np.ascontiguousarray(noise[: size[0], : size[1]]))
        assert prediction.labels.shape == tuple(size)
        if index == SETTLED:
            settled = resident_mb()
        most = max(most, resident_mb())
    last = resident_mb()
    print(f'{PREDICTIONS} predictions: {settled:.0f} MB after {SETTLED}, at most {most:.0f}, {last:.0f} at the end')
    assert last - settled < GROWTH
