"""The command that moves a gate: what it writes, and that it writes nothing when it fails."""

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from msvit_mm.checkpoints import load_checkpoint_safely

ROOT = Path(__file__).parents[2]
CLASSIFIER = ROOT / 'configs' / 'msvit_classifier_scenes.py'
SEGMENTOR = ROOT / 'configs' / 'msvit_upernet_scenes.py'
LARGER = """
_base_ = {base!r}
model = dict(backbone=dict(img_size=(128, 160), arch=dict(num_layers=5), gate=dict({gate})))
test_dataloader = dict(dataset=dict(num_images=8))
"""


def build(config, path, edit=dict):
    """Write random weights of a config's model, with a gate whose decisions differ."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    torch.save(dict(state_dict=edit(model.state_dict()), meta={}), path)
    return path


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    return build(CLASSIFIER, tmp_path_factory.mktemp('transfer') / 'classifier.pth')


@pytest.fixture
def larger(tmp_path):
    """A function that writes a config of a deeper segmentor for larger images."""

    def write(gate=''):
        (tmp_path / 'larger.py').write_text(LARGER.format(base=str(SEGMENTOR), gate=gate))
        return tmp_path / 'larger.py'

    return write


@pytest.fixture
def move(run):
    return partial(run, 'transfer-gate')


@pytest.fixture
def check_fails(fail, tmp_path):
    """Run the command and check that it ends with one line and writes nothing."""

    def check(message, *arguments, options=()):
        folder = tmp_path / 'out'
        assert message in fail('transfer-gate', *arguments, folder / 'gate.pth', *options)
        assert not folder.exists()

    return check


def test_images_of_a_folder(move, classifier, larger, write_photos, tmp_path):
    output = tmp_path / 'new' / 'gate.pth'
    folder = write_photos(a_png=(70, 90), b_png=(70, 90))
    printed = move(CLASSIFIER, classifier, larger(), output, '--images', folder)
    assert 'resampled   gate_loss.mean_logits, 6 x 6 to 8 x 10 regions' in printed
    assert f"use         model.init_cfg = dict(type='Pretrained', checkpoint='{output}')" in printed
    assert sorted(path.name for path in output.parent.iterdir()) == ['gate.json', 'gate.pth']
    assert json.loads((output.parent / 'gate.json').read_text())['scale_maps']['num_images'] == 2


def test_output_starts_the_target(move, classifier, larger, tmp_path):
    config, output, report = larger('frozen=True'), tmp_path / 'gate.pth', tmp_path / 'report.json'
    other = build(config, tmp_path / 'other.pth', edit=lambda w: {k: t for k, t in w.items() if '.gate.' not in k})
    printed = move(CLASSIFIER, classifier, config, output, '--target-checkpoint', other, '--report', report)
    assert f"use         load_from = '{output}'" in printed
    written = json.loads(report.read_text())
    maps = written['scale_maps']
    assert maps['num_images'] == 8
    assert f'agreement   {maps["agreement"]:.3f} of the regions, {maps["agreement_by_chance"]:.3f} by chance' in printed
    assert 0 < maps['source_coarse_ratio'] < 1
    assert written['left'] == written['mapped'] == []
    assert written['target_checkpoint'] == 'other.pth'

    checkpoint = load_checkpoint_safely(output)
    assert checkpoint['meta'] == dict(source='classifier.pth', report=written)
    model = MODELS.build(Config.fromfile(config).model)
    model.load_state_dict(checkpoint['state_dict'])
    weights, others = load_checkpoint_safely(classifier)['state_dict'], load_checkpoint_safely(other)['state_dict']
    for key, tensor in model.state_dict().items():
        if 'gate_loss' not in key:
            assert torch.equal(tensor, (weights if '.gate.' in key else others)[key])


def test_between_equal_models_everything_agrees(move, classifier, tmp_path):
    # Classifier and segmentor of the scenes share normalisation, image size and gate.
    printed = move(CLASSIFIER, classifier, SEGMENTOR, tmp_path / 'gate.pth')
    assert 'agreement   1.000 of the regions' in printed
    assert printed.count('moved ') == 10
    moved = load_checkpoint_safely(tmp_path / 'gate.pth')['state_dict']
    weights = load_checkpoint_safely(classifier)['state_dict']
    assert all(torch.equal(tensor, weights[key]) for key, tensor in moved.items())


def test_existing_output(move, classifier, larger, tmp_path):
    arguments = (CLASSIFIER, classifier, larger(), tmp_path / 'gate.pth')
    for name in ('gate.pth', 'gate.json'):
        (tmp_path / name).write_bytes(b'old')
        with pytest.raises(SystemExit, match=f'{name}.*: wanted a new file, got an existing one; --overwrite'):
            move(*arguments)
        with pytest.raises(SystemExit, match='wanted a file, got none'):
            move(CLASSIFIER, tmp_path / 'absent.pth', *arguments[2:], '--overwrite')
        assert (tmp_path / name).read_bytes() == b'old'
        (tmp_path / name).unlink()
    (tmp_path / 'gate.pth').write_bytes(b'old')
    assert 'written' in move(*arguments, '--overwrite')
    assert load_checkpoint_safely(tmp_path / 'gate.pth')['state_dict']
    with pytest.raises(SystemExit, match='--report: wanted another file than DST'):
        move(*arguments, '--overwrite', '--report', tmp_path / 'gate.pth')


def test_data_that_is_not_there(move, classifier, tmp_path):
    text = (
        f'_base_ = {str(SEGMENTOR)!r}\n' + "test_dataloader = dict(dataset=dict(data_prefix=dict(img_path='absent')))"
    )
    (tmp_path / 'config.py').write_text(text)
    printed = move(CLASSIFIER, classifier, tmp_path / 'config.py', tmp_path / 'gate.pth')
    assert 'scale maps  not compared: no test data; --images FOLDER' in printed
    assert json.loads((tmp_path / 'gate.json').read_text())['scale_maps'] is None


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (lambda w: {k: t for k, t in w.items() if '.gate.' not in k}, 'the source has no gate: wanted weights below'),
        (lambda w: w | {'backbone.gate.scale': torch.ones(1)}, 'unexpected backbone.gate.scale'),
        (lambda w: w | {'hook': os.getcwd}, 'refused, since loading it could run code'),
    ],
)
def test_bad_source(check_fails, larger, tmp_path, edit, message):
    check_fails(message, CLASSIFIER, build(CLASSIFIER, tmp_path / 'bad.pth', edit), larger())


def test_truncated_source(check_fails, classifier, larger, tmp_path):
    content = classifier.read_bytes()
    (tmp_path / 'bad.pth').write_bytes(content[: len(content) // 2])
    check_fails('bytes that are truncated, corrupt', CLASSIFIER, tmp_path / 'bad.pth', larger())


@pytest.mark.parametrize(
    ('gate', 'message'),
    [
        ("pixels='raw'", "the source's gate does not fit the target: pixels: wanted raw, got both."),
        (
            "type='RandomGate', _delete_=True",
            'the target has no gate that can move: wanted a ScaleGate, got Random',
        ),
    ],
)
def test_target_of_another_gate(check_fails, classifier, larger, gate, message):
    check_fails(message, CLASSIFIER, classifier, larger(gate))


def test_target_of_other_patches(check_fails, classifier, tmp_path):
    text = f'_base_ = {str(SEGMENTOR)!r}\nmodel = dict(backbone=dict(patch_size=16, coarse_patch_size=32))'
    (tmp_path / 'config.py').write_text(text)
    message = 'patch_size: wanted 16, got 8; coarse_patch_size: wanted 32, got 16.'
    check_fails(message, CLASSIFIER, classifier, tmp_path / 'config.py')


def test_source_without_a_learned_gate(check_fails, larger, tmp_path):
    source = ROOT / 'configs/studies/baselines/random_upernet_scenes.py'
    path = tmp_path / 'random.pth'
    torch.save(dict(state_dict={}), path)
    check_fails('the source has no gate that can move: wanted a ScaleGate, got RandomGate', source, path, larger())


def test_other_bad_input(check_fails, classifier, larger, toy_config, tmp_path):
    config = larger()
    check_fails(
        "config 'absent.py': wanted a file or a config of msvit_mm, got neither", 'absent.py', classifier, config
    )
    check_fails('wanted a model over a gated backbone', CLASSIFIER, classifier, toy_config)
    (tmp_path / 'empty.py').write_text('')
    check_fails("empty.py': wanted a model, got none", CLASSIFIER, classifier, tmp_path / 'empty.py')
    check_fails('wanted an image file or a folder', CLASSIFIER, classifier, config, options=('--images', 'absent'))
    options = ('--target-checkpoint', classifier)
    check_fails('the checkpoint does not fit the model', CLASSIFIER, classifier, config, options=options)
    odd = build(config, tmp_path / 'odd.pth', edit=lambda w: w | {'decode_head.odd': torch.ones(1)})
    message = 'wanted weights of the target, got 1: decode_head.odd'
    check_fails(message, CLASSIFIER, classifier, config, options=('--target-checkpoint', odd))
    code = build(config, tmp_path / 'code.pth', edit=lambda w: w | {'hook': os.getcwd})
    message = 'refused, since loading it could run code'
    check_fails(message, CLASSIFIER, classifier, config, options=('--target-checkpoint', code))
