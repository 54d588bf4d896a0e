"""Models as folders of the Hugging Face Hub: what is written, that it comes back, and what is refused. No network."""

import importlib
import json
import math
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS
from safetensors.torch import load_file

import msvit_mm.hub
from msvit_mm.backbones import registered_backbones
from msvit_mm.checkpoints import load_from_hub
from msvit_mm.checkpoints.hub import _from_json, _to_json, hub_files
from msvit_mm.gates import EdgeGate
from msvit_mm.hub import HubMSViT
from msvit_mm.models import GatedEncoderDecoder

CONFIG = dict(
    default_scope='mmseg',
    model=dict(
        type='GatedEncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[63.75] * 3, size=(64, 96)),
        backbone=dict(
            type='MSViT',
            arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
            img_size=(64, 96),
            gate=dict(type='ScaleGate', initial_ratio=0.5),
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=32,
            channels=8,
            num_convs=1,
            num_classes=3,
            norm_cfg=dict(type='SyncBN', requires_grad=True),
        ),
        test_cfg=dict(mode='whole'),
    ),
)
ENTRY = {
    'Name': 'tiny',
    'In Collection': 'MSViT',
    'Config': 'configs/tiny.py',
    'Metadata': {'Training Data': 'Scenes', 'Parameters': 12345},
    'Results': [dict(Task='Semantic Segmentation', Dataset='Scenes', Metrics=dict(mIoU=41.2345, gmacs=0.5))],
}
PAPER = dict(Title='MSViT', URL='https://arxiv.org/abs/2307.02321')


@pytest.fixture
def model(perturb):

    return perturb(MODELS.build(Config(CONFIG).model)).eval()


@pytest.fixture
def folder(model, tmp_path):
    """A published model."""
    meta = dict(cfg=Config(CONFIG).pretty_text, dataset_meta=dict(classes=('a', 'b', 'c')), metrics=dict(mIoU=41.2345))
    for name, content in hub_files(dict(state_dict=model.state_dict(), meta=meta), ENTRY, PAPER).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def edit(folder, change):
    content = json.loads((folder / 'config.json').read_text())
    change(content)
    (folder / 'config.json').write_text(json.dumps(content))


def test_it_comes_back(model, folder):
    loaded = load_from_hub(folder)
    images = torch.randn(2, 3, 64, 96)
    assert isinstance(loaded, GatedEncoderDecoder) and not loaded.training
    assert loaded.dataset_meta == dict(classes=('a', 'b', 'c'))
    assert loaded.cfg.model == Config(CONFIG).model
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        metas = [dict(img_shape=(64, 96))] * 2
        assert torch.equal(loaded.inference(images, metas)[0], model.inference(images, metas)[0])
    assert load_file(folder / 'model.safetensors').keys() == model.state_dict().keys()


def test_a_name_on_the_hub(folder, monkeypatch):
    def download(name, *, revision, token, allow_patterns):
        assert (name, revision, token, allow_patterns) == (
            'user/tiny',
            'v1',
            None,
            ['model.safetensors', 'config.json'],
        )
        return str(folder)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    assert isinstance(load_from_hub('user/tiny', revision='v1'), GatedEncoderDecoder)


def test_card(folder):
    text = (folder / 'README.md').read_text()
    _, head, body = text.split('---\n', 2)
    head = yaml.safe_load(head)
    assert (head['library_name'], head['pipeline_tag']) == ('msvit_mm', 'image-segmentation')
    for words in ('# tiny', '12,345 parameters', "load_from_hub('tiny')", '| mIoU | 41.23 |', PAPER['URL'], 'Scenes'):
        assert words in body
    assert huggingface_hub.ModelCard.load(folder / 'README.md').data.library_name == 'msvit_mm'


@pytest.mark.parametrize('name', ['subprocess.Popen', 'os.system', 'Popen', 'mmseg.os.system', 'this.FCNHead', None, 7])
def test_no_other_names_are_built(folder, name):
    edit(folder, lambda content: content['config']['model']['decode_head'].update(type=name))
    with pytest.raises(ValueError, match=r'decode_head.type: wanted a name that msvit_mm or a host registers, got'):
        load_from_hub(folder)


def test_no_other_names_are_built_later(folder):
    """The pipeline of the test images is built when the model predicts."""
    step = dict(type='os.system', command='true')
    edit(folder, lambda content: content['config'].update(test_pipeline=[step]))
    with pytest.raises(ValueError, match=r"test_pipeline\.0\.type: wanted a name that .* registers, got 'os.system'"):
        load_from_hub(folder)


@pytest.mark.parametrize(
    ('break_it', 'message'),
    [
        (
            lambda x: (x / 'config.json').unlink(),
            'wanted a file of `msvit publish-model --format safetensors`, got none',
        ),
        (lambda x: (x / 'config.json').write_text('{'), 'wanted JSON, got'),
        (lambda x: (x / 'config.json').write_text('{"model": 1}'), "wanted 'config' with a model, got model"),
        (lambda x: (x / 'config.json').write_text('[]'), "wanted 'config' with a model, got list"),
        (lambda x: (x / 'model.safetensors').unlink(), 'wanted a file, got none'),
        (lambda x: (x / 'model.safetensors').write_bytes(b'0' * 64), 'wanted a file written by safetensors'),
    ],
)
def test_bad_folders(folder, break_it, message):
    break_it(folder)
    with pytest.raises(ValueError, match=message):
        load_from_hub(folder)


def test_weights_of_another_model(folder):
    edit(folder, lambda content: content['config']['model']['decode_head'].update(num_classes=4))
    with pytest.raises(ValueError, match='the checkpoint does not fit the model'):
        load_from_hub(folder)


def test_values_keep_their_kind():
    values = dict(size=(1, 2), nested=[(3,), dict(a=(math.inf, -math.inf))], plain=[1, 2.5, None, True, 'x'])
    assert _from_json(json.loads(json.dumps(_to_json(values), allow_nan=False))) == values


@torch.no_grad()
def test_bare_backbones(tiny_arch, perturb, tmp_path):
    words = dict(arch=tiny_arch, img_size=(64, 96), gate=dict(type='ScaleGate', initial_ratio=0.5), out_indices=[0, 1])
    backbone = perturb(HubMSViT(**words)).eval()
    backbone.save_pretrained(tmp_path)
    assert {'model.safetensors', 'config.json', 'README.md'} <= {path.name for path in tmp_path.iterdir()}
    loaded = HubMSViT.from_pretrained(tmp_path)
    images = torch.randn(2, 3, 64, 96)
    assert all(torch.equal(x, y) for x, y in zip(loaded(images), backbone(images), strict=True))
    other = HubMSViT.from_pretrained(str(tmp_path), token_budget=9).eval()
    assert other.forward_gated(images)[1].num_tokens.tolist() == [9, 9]
    content = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(content | dict(norm_cfg=dict(type='subprocess.Popen'))))
    with pytest.raises(ValueError, match='wanted a name that msvit_mm or a host registers'):
        HubMSViT.from_pretrained(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize('name', [name for name in registered_backbones() if name in vars(msvit_mm.backbones)])
def test_every_bare_backbone(perturb, tmp_path, name):
    cls = getattr(msvit_mm.hub, f'Hub{name}')
    backbone = perturb(cls(**cls.examples()['plain'])).eval()
    backbone.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path).eval()
    images = torch.randn(2, 3, 64, 96)
    assert all(torch.equal(x, y) for x, y in zip(loaded(images), backbone(images), strict=True))
    assert cls.paper['URL'] in (tmp_path / 'README.md').read_text()


def test_missing_packages_are_named(folder, monkeypatch, model):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    monkeypatch.delitem(sys.modules, 'msvit_mm.hub')
    with pytest.raises(ImportError, match=r'msvit_mm.hub needs huggingface_hub; install with .*msvit_mm\[hub\]'):
        importlib.import_module('msvit_mm.hub')
    with pytest.raises(ImportError, match=r"'user/tiny' is no folder, and the Hub needs huggingface_hub; install with"):
        load_from_hub('user/tiny')
    assert isinstance(load_from_hub(Path(folder)), GatedEncoderDecoder)


def test_a_gate_by_its_class_is_refused(tiny_arch, tmp_path):
    with pytest.raises(ValueError, match='wanted words of text and numbers, .* ScaleGate for EdgeGate'):
        HubMSViT(arch=tiny_arch, img_size=(64, 96), gate=dict(type=EdgeGate)).save_pretrained(tmp_path)


def test_positions_of_a_wide_network_come_back(tiny_arch, tmp_path):
    model = HubMSViT(arch=tiny_arch, img_size=(32, 128), gate=dict(type='EdgeGate'))
    torch.nn.init.normal_(model.pos_embed)
    model.save_pretrained(tmp_path)
    assert torch.equal(HubMSViT.from_pretrained(tmp_path).pos_embed, model.pos_embed)
