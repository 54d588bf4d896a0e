"""Checkpoints that are broken or odd: refused in one line, or what they were; none is loaded as something else."""

import hashlib
import pickle
import random
import warnings
import zipfile

import numpy as np
import pytest
import torch

from msvit_mm.checkpoints import load_checkpoint_safely, load_kept_config, load_weights_safely
from msvit_mm.checkpoints.publish import find_metrics, strip_checkpoint

CHECKPOINT = dict(
    state_dict={f'layer{i}.weight': torch.arange(600.0).reshape(20, 30) + i for i in range(4)},
    meta=dict(epoch=0, iter=4, cfg="model = dict(type='MSViT')", dataset_meta=dict(classes=('a', 'b'))),
    message_hub=dict(runtime_info={}, log_scalars={}),
    optimizer={},
)
ODD = [None, 3, 'x', b'x', [1], {}, (), float('nan'), {1: 2}, [[]], torch.zeros(2), np.float64(1), {'a': None}]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def attempt(call):
    """The outcome of a call, or None if it was refused in one line of an expected kind."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return call()
    except ValueError as error:
        assert error.args and '\n' not in str(error), error
        return None


def flip_bits(content, generator):
    flipped = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 2, 8])):
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize('count', [40, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize('kind', ['plain', 'published', 'legacy published', 'safetensors published'])
def test_flipped_bits(tmp_path, kind, count):
    path = tmp_path / 'a.pth'
    if kind.startswith('safetensors'):
        path = tmp_path / 'a.safetensors'
        pytest.importorskip('safetensors.torch').save_file(CHECKPOINT['state_dict'], path)
    else:
        torch.save(CHECKPOINT, path, _use_new_zipfile_serialization='legacy' not in kind)
    content = path.read_bytes()
    if 'published' in kind:
        path = path.with_stem(f'a-{hashlib.sha256(content).hexdigest()[:8]}')
    path.write_bytes(content)
    assert same(load_weights_safely(path)[0], CHECKPOINT['state_dict'])
    generator, refused = random.Random(0), 0
    for _ in range(count):
        path.write_bytes(flip_bits(content, generator))
        loaded = attempt(lambda: load_weights_safely(path)[0])
        refused += loaded is None
        assert loaded is None or same(loaded, CHECKPOINT['state_dict'])
    assert refused == count if 'published' in kind else refused > count / 2


@pytest.mark.parametrize('count', [20, pytest.param(500, marks=pytest.mark.slow)])
def test_truncations(tmp_path, count):
    torch.save(CHECKPOINT, tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    generator = random.Random(0)
    for _ in range(count):
        (tmp_path / 'a.pth').write_bytes(content[: generator.randrange(len(content))])
        assert attempt(lambda: load_checkpoint_safely(tmp_path / 'a.pth')) is None


def odd_checkpoints():
    """The checkpoint with an odd value in place of each of its parts, and odd values instead of it."""
    yield from ODD
    for part in CHECKPOINT:
        for value in ODD:
            yield CHECKPOINT | {part: value}
            if isinstance(CHECKPOINT[part], dict):
                for name in CHECKPOINT[part] or ['new']:
                    yield CHECKPOINT | {part: CHECKPOINT[part] | {name: value}}


def test_odd_checkpoints_end_in_one_line(tmp_path):
    count = 0
    for content in odd_checkpoints():
        torch.save(content, tmp_path / 'odd.pth')
        checkpoint = attempt(lambda: load_checkpoint_safely(tmp_path / 'odd.pth'))
        attempt(lambda: load_weights_safely(tmp_path / 'odd.pth'))
        attempt(lambda: load_kept_config(tmp_path / 'odd.pth'))
        if checkpoint is not None:
            metrics = attempt(lambda c=checkpoint: find_metrics(c, tmp_path / 'odd.pth', 'iter'))
            attempt(lambda c=checkpoint, m=metrics or {}: strip_checkpoint(c, m))
        count += 1
    assert count > 150


@pytest.mark.parametrize('content', [b'', b'\0' * 100, b'PK\x03\x04' + b'x' * 50, pickle.dumps([1]), b'[' * 10**5])
def test_files_of_another_kind(tmp_path, content):
    (tmp_path / 'a.pth').write_bytes(content)
    assert attempt(lambda: load_checkpoint_safely(tmp_path / 'a.pth')) is None
    (tmp_path / 'a.safetensors').write_bytes(content)
    assert attempt(lambda: load_weights_safely(tmp_path / 'a.safetensors')) is None


def test_bombs_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('bomb/data.pkl', bytes(10**7))
    assert (tmp_path / 'bomb.pth').stat().st_size < 10**5
    assert attempt(lambda: load_checkpoint_safely(tmp_path / 'bomb.pth')) is None
