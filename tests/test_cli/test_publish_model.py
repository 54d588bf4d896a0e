"""The command that publishes: what it writes of a real run, what the hosts predict with it, and what it refuses."""

import copy
import hashlib
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmpretrain import ImageClassificationInferencer
from mmseg.apis import MMSegInferencer
from modelindex.load_model_index import load as load_model_index

from msvit_mm.checkpoints import load_checkpoint_safely, load_from_hub, load_kept_config
from msvit_mm.cli.models import build_gated_model, load_trained_segmentor

ROOT = Path(__file__).parents[2]
SEGMENTOR = ROOT / 'configs' / 'msvit_upernet_scenes.py'
CLASSIFIER = ROOT / 'configs' / 'msvit_classifier_scenes.py'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def build(config, path, edit=lambda checkpoint: None):
    """Write random weights of a config's model, with a gate whose decisions differ, as a run keeps them."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))  # a run keeps the config as it was before its model was built
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
    classes = DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO
    meta = dict(cfg=cfg.pretty_text, dataset_meta=classes, iter=7, epoch=0)
    checkpoint = dict(state_dict=model.state_dict(), meta=meta, optimizer=dict(state=[torch.ones(3)]))
    edit(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture
def publish(run):
    return partial(run, 'publish-model')


@pytest.fixture
def check_fails(fail, tmp_path):
    """Run the command and check that it ends with one line and writes nothing."""

    def check(message, config, checkpoint, name='scenes.pth'):
        assert message in fail('publish-model', config, checkpoint, tmp_path / 'out' / name)
        assert not (tmp_path / 'out').exists()

    return check


@pytest.fixture
def scene(tmp_path):
    """A scene of the test data as an image file, and its index."""
    path = tmp_path / 'image.png'
    path.write_bytes(fileio.get('scenes://val/seed0/96x96/00003.png'))
    return str(path), 3


def predict_as_tested(config, checkpoint, index):
    """What the test loop predicts for an item of the test data."""
    cfg = Config.fromfile(config)
    model = build_gated_model(cfg, str(checkpoint), 'cpu')
    item = DATASETS.build(cfg.test_dataloader.dataset)[index]
    with torch.no_grad():
        return model.test_step(pseudo_collate([item]))[0]


def check_choices(sample, wanted):
    assert torch.equal(sample.scale_map.data, wanted.scale_map.data)
    assert 0 < sample.scale_map.data.mean() < 1
    assert (sample.num_tokens, sample.gmacs) == (wanted.num_tokens, wanted.gmacs)


def test_a_run(run, publish, tmp_path):
    """Trained, validated and published: the metrics are those that the run printed of the published weights."""
    small = ('num_workers=0', 'persistent_workers=False', 'batch_size=4', 'dataset.num_images=4')
    options = [f'{loader}.{key}' for loader in LOADERS for key in small]
    options += ['train_cfg.max_iters=2', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=2']
    printed = run('train', SEGMENTOR, '--work-dir', tmp_path, '--cfg-options', *options)
    checkpoints = [tmp_path / 'iter_2.pth', *tmp_path.glob('best_mIoU_iter_*.pth')]
    assert len(checkpoints) == 2
    printed = re.findall(r'Iter\(val\) \[1/1\].* mIoU: ([\d.]+) .* gmacs: ([\d.]+)', printed)
    assert len(printed) == 2

    config = tmp_path / SEGMENTOR.name
    assert f'mIoU {float(printed[1][0]):.4g}' in publish(config, checkpoints[0], tmp_path / 'out' / 'iter_2.pth')
    (written,) = (tmp_path / 'out').glob('*.pth')
    assert written.name == f'iter_2-{hashlib.sha256(written.read_bytes()).hexdigest()[:8]}.pth'
    before, after = load_checkpoint_safely(checkpoints[0]), torch.load(written, weights_only=True)
    assert set(after) == {'meta', 'state_dict'}
    assert after['meta']['cfg'] == before['meta']['cfg'] == config.read_text()
    assert before['state_dict'].keys() == after['state_dict'].keys()
    assert all(torch.equal(tensor, after['state_dict'][key]) for key, tensor in before['state_dict'].items())
    assert written.stat().st_size < 0.4 * checkpoints[0].stat().st_size

    metrics = after['meta']['metrics']
    assert f'{metrics["mIoU"]:.4f}' == printed[1][0]
    (entry,) = yaml.safe_load((tmp_path / 'out' / 'metafile.yml').read_text())['Models']
    assert (entry['Name'], entry['In Collection'], entry['Weights']) == ('iter_2', 'MSViT', written.name)
    assert Path(entry['Config']).samefile(config)
    assert entry['Metadata']['Iterations'] == 2
    assert entry['Metadata']['FLOPs'] == pytest.approx(float(printed[1][1]) * 1e9, abs=1e5)
    parameters = sum(t.numel() for key, t in after['state_dict'].items() if 'num_batches' not in key)
    assert entry['Metadata']['Parameters'] == parameters  # no norm of this model has running statistics
    (result,) = entry['Results']
    assert (result['Task'], result['Dataset']) == ('Semantic Segmentation', 'Scenes')
    assert result['Metrics'] == pytest.approx(metrics, rel=1e-5)
    (model,) = load_model_index(str(tmp_path / 'out' / 'metafile.yml')).models  # as mmpretrain and mim read it
    assert (model.metadata.parameters, model.results[0].metrics) == (parameters, result['Metrics'])


def test_published_again_is_the_same_file(publish, tmp_path):
    publish(SEGMENTOR, build(SEGMENTOR, tmp_path / 'run.pth'), tmp_path / 'a' / 'scenes.pth')
    (first,) = (tmp_path / 'a').glob('*.pth')
    assert 'metrics     none of these weights' in publish(SEGMENTOR, first, tmp_path / 'b' / 'scenes.pth')
    assert [path.name for path in (tmp_path / 'b').glob('*.pth')] == [first.name]


def test_mmseg_predicts_what_testing_does(publish, scene, tmp_path):
    image, index = scene
    publish(SEGMENTOR, build(SEGMENTOR, tmp_path / 'run.pth'), tmp_path / 'scenes.pth')
    (weights,) = map(str, tmp_path.glob('scenes-*.pth'))
    wanted = predict_as_tested(SEGMENTOR, tmp_path / 'run.pth', index)
    # None: the host executes the text that the checkpoint keeps
    for model in (str(SEGMENTOR), load_kept_config(weights), None):
        inferencer = MMSegInferencer(model, weights, device='cpu')
        assert inferencer.model.dataset_meta['classes'][4] == 'ball'
        sample = inferencer(image, return_datasamples=True, out_dir=str(tmp_path / 'out'))
        assert torch.equal(sample.seg_logits.data, wanted.seg_logits.data)
        assert torch.equal(sample.pred_sem_seg.data, wanted.pred_sem_seg.data)
        check_choices(sample, wanted)
        assert (tmp_path / 'out' / 'vis' / 'image.png').is_file()
        (tmp_path / 'out' / 'vis' / 'image.png').unlink()


def test_mmpretrain_predicts_what_testing_does(publish, scene, tmp_path):
    image, index = scene
    publish(CLASSIFIER, build(CLASSIFIER, tmp_path / 'run.pth'), tmp_path / 'presence.pth')
    (entry,) = yaml.safe_load((tmp_path / 'metafile.yml').read_text())['Models']
    assert 'Results' not in entry
    weights = str(tmp_path / entry['Weights'])
    wanted = predict_as_tested(CLASSIFIER, tmp_path / 'run.pth', index)
    for model in (str(CLASSIFIER), load_kept_config(weights)):
        inferencer = ImageClassificationInferencer(model, weights, device='cpu')
        assert inferencer.classes[0] == 'ball'
        (sample,) = inferencer(image, return_datasamples=True, show_dir=str(tmp_path / 'shown'))
        assert torch.equal(sample.pred_score, wanted.pred_score)
        check_choices(sample, wanted)
        (tmp_path / 'shown' / 'image.png').unlink()


@pytest.mark.slow
@pytest.mark.slow
def test_lines_of_the_documentation(publish, scene, tmp_path):
    section = (ROOT / 'docs' / 'weights.md').read_text().split('## Publish and predict')[1].split('\n## ')[0]
    (code,) = re.findall(r'```python\n(.*?)```', section, flags=re.DOTALL)
    for config, name in ((SEGMENTOR, 'scenes'), (CLASSIFIER, 'presence')):
        publish(config, build(config, tmp_path / 'run.pth'), tmp_path / name / f'{name}.pth')
        (weights,) = (tmp_path / name).glob('*.pth')
        assert f"'{name}.pth'" in code
        weights.rename(tmp_path / f'{name}.pth')
    environment = os.environ | dict(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='-1')
    arguments = dict(cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
    process = subprocess.run([sys.executable, '-c', code], **arguments)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count('torch.Size([1, 6, 6])') == 2
    assert (tmp_path / 'out' / 'vis' / 'image.png').is_file()
    assert (tmp_path / 'shown' / 'image.png').is_file()


def test_existing_output(publish, tmp_path):
    run, output = build(SEGMENTOR, tmp_path / 'run.pth'), tmp_path / 'out' / 'scenes.pth'
    publish(SEGMENTOR, run, output)
    (written,) = output.parent.glob('*.pth')
    written.write_bytes(b'old')
    listing = output.with_name('metafile.yml')
    before = listing.read_text()
    with pytest.raises(SystemExit, match='wanted a new file, got an existing one; --overwrite'):
        publish(SEGMENTOR, run, output)
    build(SEGMENTOR, tmp_path / 'next.pth', lambda checkpoint: checkpoint['meta'].update(iter=8))
    with pytest.raises(SystemExit, match="metafile.yml': wanted a new model, got 'scenes' again; --overwrite"):
        publish(SEGMENTOR, tmp_path / 'next.pth', output)
    with pytest.raises(SystemExit, match='wanted a file, got none'):
        publish(SEGMENTOR, tmp_path / 'absent.pth', output, '--overwrite')
    assert written.read_bytes() == b'old'
    assert listing.read_text() == before
    assert sorted(output.parent.iterdir()) == sorted([listing, written])

    publish(SEGMENTOR, run, output, '--overwrite')
    assert load_checkpoint_safely(written)['meta']['iter'] == 7
    publish(SEGMENTOR, tmp_path / 'next.pth', output, '--overwrite')
    (entry,) = yaml.safe_load(listing.read_text())['Models']
    assert entry['Metadata']['Iterations'] == 8
    assert load_checkpoint_safely(output.parent / entry['Weights'])['meta']['iter'] == 8
    assert written.is_file()


def test_a_damaged_metafile_stops_everything(publish, tmp_path):
    (tmp_path / 'metafile.yml').write_text('Models: nothing')
    with pytest.raises(SystemExit, match="metafile.yml': wanted lists of Collections and Models"):
        publish(SEGMENTOR, build(SEGMENTOR, tmp_path / 'run.pth'), tmp_path / 'scenes.pth', '--overwrite')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['metafile.yml', 'run.pth']


def drop_gate(checkpoint):
    checkpoint['state_dict'] = {key: t for key, t in checkpoint['state_dict'].items() if '.gate.' not in key}


def other_patches(checkpoint):
    checkpoint['meta']['cfg'] = checkpoint['meta']['cfg'].replace('coarse_patch_size=16', 'coarse_patch_size=32')


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (drop_gate, 'weights are missing; wanted backbone.gate.layers.0.weight'),
        (other_patches, "wanted the model of the checkpoint's run, got one that differs in backbone;"),
        (lambda c: c['state_dict'].update({'backbone.gate.layers.0.bias': torch.ones(3)}), 'wanted (64,), got (3,)'),
        (lambda c: c['state_dict'].update(odd=torch.ones(1)), "wanted weights of the config's model alone, got odd"),
        (lambda c: c['meta'].update(cfg='import os'), 'wanted values as mmengine prints them, got import os'),
        (lambda c: c['meta'].pop('cfg'), "with its config in 'meta', got the keys dataset_meta"),
        (lambda c: c.pop('meta'), "with its config in 'meta', got state_dict"),
        (lambda c: c.update(hook=os.getcwd), 'refused, since loading it could run code'),
        (lambda c: c.pop('state_dict'), "wanted a dict with a 'state_dict', got the keys meta"),
    ],
)
def test_bad_checkpoint(check_fails, tmp_path, edit, message):
    check_fails(message, SEGMENTOR, build(SEGMENTOR, tmp_path / 'bad.pth', edit))


def test_other_bad_input(check_fails, toy_config, tmp_path):
    run = build(SEGMENTOR, tmp_path / 'run.pth')
    (tmp_path / 'cut.pth').write_bytes(run.read_bytes()[:-1000])
    check_fails('bytes that are truncated, corrupt', SEGMENTOR, tmp_path / 'cut.pth')
    check_fails("config 'absent.py': wanted a file or a config of msvit_mm, got neither", 'absent.py', run)
    check_fails('wanted a model over a gated backbone', toy_config, run)
    check_fails('differs in backbone, data_preprocessor, decode_head and', CLASSIFIER, run)
    check_fails("wanted the name of a folder, got a file's", SEGMENTOR, run, name='scenes.pt')


def test_a_folder_for_the_hub(run, publish, tmp_path):
    """What is published as safetensors predicts as the run did, and its card has the run's figures."""
    checkpoint = build(
        SEGMENTOR, tmp_path / 'run.pth', lambda x: x['meta'].update(metrics=dict(mIoU=41.2345, gmacs=0.5))
    )
    printed = publish(SEGMENTOR, checkpoint, tmp_path / 'hub' / 'scenes')
    assert 'metrics     mIoU 41.23' in printed
    folder = tmp_path / 'hub' / 'scenes'
    assert {path.name for path in folder.iterdir()} == {'model.safetensors', 'config.json', 'README.md', 'metafile.yml'}
    assert '| mIoU | 41.23 |' in (folder / 'README.md').read_text()
    (entry,) = yaml.safe_load((folder / 'metafile.yml').read_text())['Models']
    assert (entry['Name'], entry['Weights']) == ('scenes', 'model.safetensors')
    model = load_from_hub(folder)
    item = DATASETS.build(Config.fromfile(SEGMENTOR).test_dataloader.dataset)[3]
    with torch.no_grad():
        sample = model.test_step(pseudo_collate([item]))[0]
    wanted = predict_as_tested(SEGMENTOR, checkpoint, 3)
    assert torch.equal(sample.pred_sem_seg.data, wanted.pred_sem_seg.data)
    check_choices(sample, wanted)
    again = load_trained_segmentor(str(folder))
    assert all(torch.equal(x, y) for x, y in zip(again.parameters(), model.parameters(), strict=True))
    assert len(again.dataset_meta['palette']) == len(again.dataset_meta['classes']) == 10
    with pytest.raises(ValueError, match='wanted no other config for a published folder'):
        load_trained_segmentor(str(folder), options=dict(a=1))


def test_a_folder_is_not_replaced(fail, publish, tmp_path):
    checkpoint, folder = build(SEGMENTOR, tmp_path / 'run.pth'), tmp_path / 'scenes'
    publish(SEGMENTOR, checkpoint, folder, '--format', 'safetensors')
    message = fail('publish-model', SEGMENTOR, checkpoint, folder, '--format', 'safetensors')
    assert 'wanted a new file, got an existing one' in message
    publish(SEGMENTOR, checkpoint, folder, '--format', 'safetensors', '--overwrite')
    message = fail('publish-model', SEGMENTOR, checkpoint, tmp_path / 'x.pth', '--format', 'safetensors')
    assert "wanted the name of a folder, got a file's" in message
