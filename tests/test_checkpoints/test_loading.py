import argparse
import hashlib
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from msvit_mm.checkpoints import (
    check_coverage,
    check_resumable,
    check_shapes,
    fetch,
    load_checkpoint_safely,
    load_weights_safely,
    use_safe_loader,
)


class Call:
    """Pickles as a call that an unrestricted unpickler would make."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def checkpoint():
    """What mmengine puts into a checkpoint beside tensors."""
    return dict(
        state_dict={'layer.weight': torch.arange(6.0).reshape(2, 3)},
        optimizer={},
        meta=dict(epoch=0, iter=2, dataset_meta=dict(classes=('a', 'b'), palette=np.zeros((2, 3), np.uint8))),
        message_hub=dict(
            log_scalars={'train/loss': HistoryBuffer([1.0, 2.0], [1, 1])},
            runtime_info=dict(best_score=np.float32(0.5), eta=np.float64(1), iter=np.int64(2), done=np.bool_(True)),
        ),
    )


@pytest.fixture
def path(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / 'good.pth')
    return tmp_path / 'good.pth'


def check_contents(checkpoint):
    assert checkpoint['message_hub']['log_scalars']['train/loss'].mean() == 1.5
    assert checkpoint['message_hub']['runtime_info']['best_score'] == np.float32(0.5)
    assert checkpoint['meta']['dataset_meta']['palette'].shape == (2, 3)
    check_resumable(checkpoint)


def test_mmengine_checkpoint(path):
    allowed = set(torch.serialization.get_safe_globals())
    check_contents(load_checkpoint_safely(path))
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize('core', ['core', '_core'])
def test_checkpoint_of_either_numpy(path, tmp_path, core):
    renamed = tmp_path / 'renamed.pth'
    current = np.float32(0).__reduce__()[0].__module__
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(renamed, 'w') as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(current.encode(), f'numpy.{core}.multiarray'.encode()))
    check_contents(load_checkpoint_safely(renamed))


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(
    'thing, name',
    [
        (lambda marker: Call(os.mkdir, str(marker)), 'mkdir'),
        (lambda marker: Call(getattr, np.ndarray, '__init__'), 'getattr'),
        (lambda marker: Call(getattr, HistoryBuffer, '__init__'), 'getattr'),
        (lambda marker: argparse.Namespace(lr=1), 'argparse.Namespace'),
    ],
)
def test_code_is_refused(tmp_path, thing, name, zipped):
    marker = tmp_path / 'ran'
    path = tmp_path / 'bad.pth'
    torch.save(dict(state_dict={'weight': thing(marker)}), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=f'got .*{name}; refused') as error_info:
        load_checkpoint_safely(path)
    assert '\n' not in str(error_info.value)
    assert not marker.exists()


def test_plain_pickle_is_refused(tmp_path):
    (tmp_path / 'bad.pth').write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / 'ran')), protocol=2))
    with pytest.raises(ValueError, match='wanted'):
        load_checkpoint_safely(tmp_path / 'bad.pth')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.99])
def test_truncated(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f'got {path.stat().st_size} bytes that are truncated, corrupt'):
        load_checkpoint_safely(path)


def test_corrupt(path):
    content = path.read_bytes()
    weight = torch.arange(6.0).numpy().tobytes()
    assert content.count(weight) == 1
    path.write_bytes(content.replace(weight, weight[::-1]))
    with pytest.raises(ValueError, match='truncated, corrupt'):
        load_checkpoint_safely(path)


def test_missing(tmp_path):
    with pytest.raises(ValueError, match='wanted a file, got none'):
        load_checkpoint_safely(tmp_path / 'nowhere.pth')


@pytest.mark.parametrize('content, got', [({'model': {}}, 'the keys model'), (torch.ones(2), 'Tensor')])
def test_foreign(tmp_path, content, got):
    torch.save(content, tmp_path / 'foreign.pth')
    with pytest.raises(ValueError, match=f"wanted a dict with a 'state_dict', got {got}"):
        load_checkpoint_safely(tmp_path / 'foreign.pth')


def test_mmengine_loads_through_the_allow_list(checkpoint, path, tmp_path):
    schemes = CheckpointLoader._schemes
    try:
        use_safe_loader()
        checkpoint['meta']['config'] = 'raise RuntimeError'
        torch.save(checkpoint, path)
        loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        check_contents(loaded)
        assert 'config' not in loaded['meta']

        torch.save({'state_dict': Call(os.mkdir, str(tmp_path / 'ran'))}, path)
        with pytest.raises(ValueError, match='refused'):
            CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        assert not (tmp_path / 'ran').exists()
    finally:
        CheckpointLoader._schemes = schemes


def test_check_coverage():
    model = ['backbone.norm.weight', 'backbone.gate.bias', 'backbone.aggregate.bias', 'norm.num_batches_tracked']
    check_coverage(model, [f'module.{key}' for key in model])
    with pytest.raises(ValueError, match=r'1 of 3 .* wanted backbone.gate.bias, got backbone.norm.weight'):
        check_coverage(model, ['backbone.norm.weight', 'backbone.aggregate.bias'])
    check_coverage(model, ['backbone.norm.weight', 'backbone.aggregate.bias'], allowed_missing=('gate',))
    with pytest.raises(ValueError, match='1 of 3 .* wanted backbone.aggregate.bias'):
        check_coverage(model, ['backbone.norm.weight'], allowed_missing=('gate',))


def test_check_shapes():
    model = {'head.weight': torch.zeros(3, 2), 'backbone.pos_embed': torch.zeros(1, 5, 2)}
    check_shapes(
        model, {'head.weight': torch.ones(3, 2), 'backbone.pos_embed': torch.ones(1, 10, 2), 'other': torch.ones(1)}
    )
    with pytest.raises(ValueError, match=r'head.weight: wanted \(3, 2\), got \(4, 2\)'):
        check_shapes(model, {'module.head.weight': torch.zeros(4, 2)})


def test_check_resumable(checkpoint):
    del checkpoint['optimizer']
    with pytest.raises(ValueError, match=r"wanted \['optimizer'\] .* set `load_from`"):
        check_resumable(checkpoint)


UNFIT = {
    'NoneType': None,
    'str': 'weight',
    'a tensor without content': torch.zeros(3, device='meta'),
    'layout torch.sparse_coo': torch.eye(3).to_sparse(),
    'complex64': torch.zeros(3, dtype=torch.complex64),
    r'shape \(1000000,\) over 4 bytes': torch.zeros(1).expand(10**6),
}


@pytest.mark.parametrize('kind', UNFIT)
def test_what_is_no_weight(tmp_path, kind):
    torch.save(dict(state_dict={'layer.weight': UNFIT[kind]}), tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match=f'layer.weight: wanted a dense tensor of real numbers, got .*{kind}'):
        load_checkpoint_safely(tmp_path / 'odd.pth')


def test_kinds_and_values_of_weights():
    model = {'weight': torch.zeros(2), 'count': torch.zeros(2, dtype=torch.int64)}
    check_shapes(model, dict(weight=torch.ones(2).half(), count=torch.ones(2, dtype=torch.int32)))
    for wrong in (torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match='weight: wanted torch.float32, got torch'):
            check_shapes(model, dict(weight=wrong))
    for wrong in (float('nan'), float('inf')):
        for dtype in (torch.float32, torch.bfloat16):
            with pytest.raises(ValueError, match='weight: wanted finite numbers, got NaN or infinity'):
                check_shapes(model, dict(weight=torch.tensor([0.0, wrong], dtype=dtype)))
    priors = {'gate_loss.mean_logits': torch.zeros(2, 3)}
    check_shapes(priors, {'gate_loss.mean_logits': torch.zeros(3, 3)})


def test_a_zip_bomb_is_not_read(path, tmp_path, monkeypatch):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr('good/data/9', bytes(10**7))
    monkeypatch.setattr(zipfile.ZipFile, 'testzip', lambda archive: pytest.fail('read'))
    with pytest.raises(ValueError, match='truncated, corrupt or of another kind'):
        load_checkpoint_safely(tmp_path / 'bomb.pth')


def test_a_hash_in_the_name_is_checked(path, tmp_path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    good, bad = tmp_path / f'a-{digest[:8]}.pth', tmp_path / 'a-0123abcd.pth'
    for name in (good, tmp_path / f'a-{digest}.pth', tmp_path / 'run-20261128.pth', bad):
        name.write_bytes(path.read_bytes())
        if name != bad:
            load_checkpoint_safely(name)
    with pytest.raises(ValueError, match=r'wanted content of SHA-256 0123abcd..., as its name says, got ' + digest[:8]):
        load_checkpoint_safely(bad)
    tensors = pytest.importorskip('safetensors.torch')
    content = tensors.save({'weight': torch.ones(100)})
    flipped = bytearray(content)
    flipped[-7] ^= 1
    name = tmp_path / f'a-{hashlib.sha256(content).hexdigest()[:8]}.safetensors'
    name.write_bytes(content)
    load_weights_safely(name)
    name.write_bytes(flipped)
    with pytest.raises(ValueError, match='wanted content of SHA-256'):
        load_weights_safely(name)


def test_files_that_cannot_be_read(path, monkeypatch):
    with pytest.raises(ValueError, match="'https://host/a.pth': wanted a local file, got an address"):
        load_checkpoint_safely('https://host/a.pth')
    with pytest.raises(ValueError, match='wanted a file, got'):
        load_checkpoint_safely('a' * 5000)
    with pytest.raises(ValueError, match='wanted a file, got'):
        load_checkpoint_safely('\0')

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('pathlib.Path.open', refuse)
    with pytest.raises(ValueError, match='wanted a file that can be read, got Permission denied'):
        load_checkpoint_safely(path)


@pytest.mark.parametrize('part', ['meta', 'message_hub', 'runtime_info', 'log_scalars'])
def test_odd_parts(checkpoint, path, part):
    holder = checkpoint if part in checkpoint else checkpoint['message_hub']
    holder[part] = ['odd']
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=f"wanted a dict as '{part}', got list"):
        load_checkpoint_safely(path)
    checkpoint['message_hub'] = dict(log_scalars=dict(loss=1))
    checkpoint['meta'] = {}
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="wanted histories in 'log_scalars', got int"):
        load_checkpoint_safely(path)


@pytest.fixture
def published(path, tmp_path, monkeypatch):
    """Address of a file whose name ends in its hash; what is fetched goes into another folder."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(tmp_path / f'net-{digest}.pth').as_uri()


def test_a_published_file_is_fetched_once(published, tmp_path):
    local = fetch(published)
    assert local == tmp_path / 'hub' / 'checkpoints' / published.rpartition('/')[2]
    (tmp_path / local.name).unlink()
    assert fetch(published) == local
    use_safe_loader()
    assert torch.equal(
        CheckpointLoader.load_checkpoint(published.replace('file:', 'https:'))['state_dict']['layer.weight'],
        torch.arange(6.0).reshape(2, 3),
    )


def test_without_the_file_one_line_says_where_it_goes(published, tmp_path):
    (tmp_path / published.rpartition('/')[2]).unlink()
    local = tmp_path / 'hub' / 'checkpoints' / published.rpartition('/')[2]
    with pytest.raises(ValueError, match=f"wanted to download them, got .*; put the file at '{local}', or start from"):
        fetch(published)
    local.write_bytes(b'another file')
    with pytest.raises(ValueError, match='as its name says, got'):
        fetch(published)


def test_another_file_than_its_name_says_is_not_kept(published, tmp_path):
    (tmp_path / published.rpartition('/')[2]).write_bytes(b'another file')
    with pytest.raises(ValueError, match='wanted to download them, got invalid hash value'):
        fetch(published)
    assert not list((tmp_path / 'hub' / 'checkpoints').iterdir())
