from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

from msvit_mm.datasets.scenes import draw_scene, scene_rng

ROOT = Path(__file__).parents[2]
CAMVID = [ROOT / 'data/camvid/images', ROOT / '../shared/data/camvid/images']
SIZE = (96, 128)


@lru_cache
def load_images(source):
    """20 normalised images (20, 3, 96, 128): generated scenes, or photographs of CamVid."""
    if source == 'scenes':
        images = [draw_scene(scene_rng(0, 'val', index), SIZE)[0] for index in range(20)]
    else:
        paths = next(filter(None, (sorted(folder.rglob('*.jpg')) for folder in CAMVID)), [])
        if len(paths) < 20:
            pytest.skip('CamVid is not there')
        chosen = [paths[i * len(paths) // 20] for i in range(20)]
        images = [cv2.resize(cv2.imread(str(path)), SIZE[::-1], interpolation=cv2.INTER_AREA) for path in chosen]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().sub(127.5).div(63.75).contiguous()


@pytest.fixture(scope='session')
def real_images():
    return load_images


@pytest.fixture(scope='session')
def make_segmentor(tiny_arch, perturb):
    """Build a tiny segmentor in evaluation mode: ``'maps'``, with a neck, or ``'tokens'``, ``'detailed tokens'``."""

    def make(kind='maps', **words):
        gate = dict(type='ScaleGate', initial_ratio=0.5)
        backbone = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=gate, out_indices=[0, 1])
        heads = dict(
            maps=dict(
                neck=dict(type='MultiLevelNeck', in_channels=[32, 32], out_channels=8, scales=[2, 1]),
                decode_head=dict(
                    type='UPerHead',
                    in_channels=[8, 8],
                    in_index=[0, 1],
                    pool_scales=(1, 2, 3),
                    channels=8,
                    num_classes=3,
                ),
            ),
            tokens=dict(
                decode_head=dict(
                    type='MixedScaleMaskTransformerHead',
                    in_channels=32,
                    channels=32,
                    embed_dims=32,
                    num_layers=2,
                    num_heads=2,
                    num_classes=3,
                )
            ),
        )
        sizes = words.get('patch_sizes', (16, 32))
        heads['detailed tokens'] = dict(
            decode_head=heads['tokens']['decode_head'] | dict(detail=dict(patch_sizes=sizes))
        )
        backbone |= dict(out_type='tokens', out_indices=[1]) if 'tokens' in kind else {}
        config = dict(type='GatedEncoderDecoder', backbone=backbone | words, test_cfg=dict(mode='whole'))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return perturb(MODELS.build(config | heads[kind]), std=0.1).eval()

    return make


# One export of each kind, and what exports nothing; the others take minutes and run in `make check-slow`.
FAST = (
    'test_exported_is_eager[maps-1-30-scenes-onnx]',
    'test_exported_is_eager[maps-1-30-scenes-pt2]',
    'test_an_old_torch_is_named',
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name == 'test_graphs.py' and item.name not in FAST:
            item.add_marker(pytest.mark.slow)
