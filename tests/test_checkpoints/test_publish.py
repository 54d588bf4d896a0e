"""What a published checkpoint says of itself: the config as it was, the metrics of these weights, nothing invented."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from msvit_mm.backbones import DynamicTokenRoutingTransformer, MSViT
from msvit_mm.checkpoints import load_kept_config
from msvit_mm.checkpoints.kept import parse_config
from msvit_mm.checkpoints.names import check_names
from msvit_mm.checkpoints.publish import (
    describe_model,
    find_metrics,
    strip_checkpoint,
    update_metafile,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
ENTRY = {'Name': 'scenes', 'In Collection': 'MSViT', 'Weights': 'scenes-00000000.pth'}


# The config


@pytest.mark.parametrize('name', ['msvit_upernet_scenes', 'msvit_segmenter_cityscapes', 'msvit_classifier_imagenet'])
def test_parsed_is_what_mmengine_reads(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    assert parse_config(cfg.pretty_text) == cfg.to_dict()


def test_odd_values_survive():
    values = dict(a=math.inf, b=-math.inf, c=-1e-3, d=None, e=(), f={'x.y': [1, (2,)], 'z': dict(q=True)}, g=dict())
    assert parse_config(Config(values).pretty_text) == values
    assert math.isnan(parse_config(Config(dict(a=math.nan)).pretty_text)['a'])


@pytest.mark.parametrize(
    'text',
    [
        "import os\nos.mkdir('{0}')",
        "a = __import__('os').mkdir('{0}')",
        "a = dict(b=open('{0}', 'w'))",
        "a = dict(**open('{0}', 'w'))",
        'a = {{**dict()}}',
        'a = b = 1',
        'a[0] = 1',
        'a = (',
        'a = dict([1])',
    ],
)
def test_code_is_refused_and_not_run(tmp_path, text):
    with pytest.raises(ValueError, match='the kept config: wanted values as mmengine prints them, got .'):
        parse_config(text.format(tmp_path / 'ran'))
    assert not list(tmp_path.iterdir())


def test_checkpoint_without_a_config(tmp_path):
    for checkpoint, got in ((dict(state_dict={}), 'state_dict'), (dict(state_dict={}, meta=dict(iter=1)), 'iter')):
        torch.save(checkpoint, tmp_path / 'bare.pth')
        with pytest.raises(ValueError, match=f"bare.pth': wanted one of a training run, .* got .*{got}"):
            load_kept_config(tmp_path / 'bare.pth')


@pytest.mark.parametrize(
    'config, message',
    [
        (dict(model=dict(type='os.system', command='touch ran')), "model.type: wanted a name .* got 'os.system'"),
        (dict(model=dict(type='os')), "model.type: .* got 'os'"),
        (dict(a=[dict(b=dict(type='mmengine.mkdir_or_exist'))]), "a.0.b.type: .* got 'mmengine.mkdir_or_exist'"),
        (dict(model=dict(type='mmseg.os.system')), "got 'mmseg.os.system'"),
        (dict(model=dict(type=3)), 'got 3'),
        (dict(default_scope='antigravity'), "default_scope: wanted one of mmengine, .* got 'antigravity'"),
        (dict(model=dict(type='LN', _scope_='antigravity')), '_scope_: wanted one of'),
        (dict(custom_imports=dict(imports=['msvit_mm', 'antigravity'])), "custom_imports: .* got 'antigravity'"),
        (dict(custom_imports='antigravity'), "custom_imports: .* got 'antigravity'"),
    ],
)
def test_a_kept_config_names_what_is_registered(tmp_path, config, message):
    torch.save(dict(state_dict={}, meta=dict(cfg=Config(config).pretty_text)), tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match=message):
        load_kept_config(tmp_path / 'odd.pth')


def test_kept_configs_of_this_package_are_accepted(tmp_path):
    for path in sorted(CONFIGS.glob('*scenes*.py'))[:6]:
        torch.save(dict(state_dict={}, meta=dict(cfg=Config.fromfile(path).pretty_text)), tmp_path / 'kept.pth')
        assert load_kept_config(tmp_path / 'kept.pth').model.type
    names = ('mmseg.LoadAnnotations', 'msvit_mm.backbones.msvit.MSViT', 'mmengine.SGD')
    check_names(dict(pipeline=[dict(type=name) for name in names]))


ODD_TEXTS = '(' * 10_000, 'a = ' + '-' * 100_000 + '1', 'a = {[]: 1}', 'a = 1 .b', 'a = dict(**3)'


@pytest.mark.parametrize('text', ODD_TEXTS, ids=range(5))
def test_odd_texts_of_configs(text):
    with pytest.raises(ValueError, match='the kept config: wanted values as mmengine prints them, got'):
        parse_config(text)


# The metrics


def checkpoint_of_a_run(folder, unit='iter', best=None, logged=()):
    """A checkpoint of step 4 whose hub holds mIoU 30, and the log of its run."""
    log = folder / '20260101_000000' / 'vis_data'
    log.mkdir(parents=True)
    (log / 'scalars.json').write_text('\n'.join(json.dumps(line) for line in logged))
    values = {'val/mIoU': 30.0, 'val/time': 1.0, 'val/data_time': 1.0, 'val/auc': math.nan, 'train/loss': 2.0}
    return dict(
        meta={'experiment_name': 'scenes_20260101_000000', 'epoch': 0, 'iter': 0, unit: 4},
        message_hub=dict(
            log_scalars={name: HistoryBuffer([value], [1]) for name, value in values.items()},
            runtime_info={} if best is None else dict(best_ckpt=f'/elsewhere/best_mIoU_{best}.pth'),
        ),
    )


@pytest.mark.parametrize('unit', ['iter', 'epoch'])
def test_the_best_checkpoint_holds_its_metrics(tmp_path, unit):
    checkpoint = checkpoint_of_a_run(tmp_path, unit, best=f'{unit}_4')
    assert find_metrics(checkpoint, tmp_path / 'moved' / 'best.pth', unit) == {'mIoU': 30.0}


@pytest.mark.parametrize('best', [None, 'iter_2', 'iter_14', 'epoch_4'])
def test_metrics_of_an_earlier_validation_are_not_taken(tmp_path, best):
    assert find_metrics(checkpoint_of_a_run(tmp_path, best=best), tmp_path / 'iter_4.pth', 'iter') == {}


def test_metrics_of_the_log(tmp_path):
    timed = dict(data_time=0.1, time=0.2)
    lines = [
        timed | dict(mIoU=31.0, step=2),
        timed | dict(mIoU=32.0, auc=math.nan, step=4),
        timed | dict(loss=1.0, iter=4, step=4),
        {'gate/gmacs': 1.0, 'step': 4},
        timed | dict(mIoU=33.0, step=6),
    ]
    checkpoint = checkpoint_of_a_run(tmp_path, best='iter_2', logged=lines)
    assert find_metrics(checkpoint, tmp_path / 'iter_4.pth', 'iter') == {'mIoU': 32.0}
    checkpoint['meta']['experiment_name'] = 'scenes_20260101_000001'  # another run in the same work directory
    assert find_metrics(checkpoint, tmp_path / 'iter_4.pth', 'iter') == {}
    checkpoint['meta']['metrics'] = {'mIoU': 34.0}
    assert find_metrics(checkpoint, tmp_path / 'iter_4.pth', 'iter') == {'mIoU': 34.0}


# The file


def test_only_what_predicting_needs_stays():
    meta = dict(cfg='a = 1', dataset_meta=dict(classes=('a',), palette=np.array([[1, 2, 3]])), iter=4, hook_msgs={})
    weights = {'module.w': torch.ones(2)}
    checkpoint = dict(
        meta=meta, state_dict=weights, ema_state_dict={}, optimizer={}, param_schedulers=[], message_hub={}
    )
    published = strip_checkpoint(checkpoint, {'mIoU': 30.0})
    kept = dict(cfg='a = 1', dataset_meta=dict(classes=('a',), palette=[[1, 2, 3]]), iter=4, metrics={'mIoU': 30.0})
    assert published == dict(meta=kept, state_dict={'w': weights['module.w']})


# The metafile


@pytest.fixture
def cfg():
    return Config.fromfile(CONFIGS / 'msvit_upernet_scenes.py')


class Model(torch.nn.Module):
    """What a description looks at: the backbone's class, the parts and their parameters."""

    def __init__(self, backbone=MSViT, **parts):
        super().__init__()
        self.backbone = backbone
        for name, part in parts.items():
            self.add_module(name, part)


def test_nothing_is_invented(cfg):
    model = Model(norm=torch.nn.BatchNorm1d(5))  # ten parameters beside its buffers
    entry = describe_model('scenes', 's-1.pth', cfg, 'configs/s.py', model, dict(iter=7, metrics={}))
    assert entry['In Collection'] == 'MSViT'
    assert entry['Metadata'] == {'Training Data': 'Scenes', 'Iterations': 7, 'Parameters': 10}
    assert 'Results' not in entry

    metrics = {'mIoU': 69.9800033569336, 'gmacs': 0.0462}
    entry = describe_model('scenes', 's-1.pth', cfg, 'configs/s.py', model, dict(iter=7, metrics=metrics))
    assert entry['Metadata']['FLOPs'] == 46_200_000
    assert entry['Results'][0]['Metrics'] == {'mIoU': 69.98, 'gmacs': 0.0462}


def test_epochs_and_wrapped_data(cfg):
    cfg.train_cfg = dict(by_epoch=True)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', dataset=dict(type='CamVidDataset'))
    entry = describe_model('m', 'm-1.pth', cfg, 'm.py', Model(), dict(iter=70, epoch=2, metrics={}))
    assert entry['Metadata'] == {'Training Data': 'CamVid', 'Epochs': 2, 'Parameters': 0}


def test_routes_are_another_collection(tmp_path):
    cfg = Config.fromfile(CONFIGS / 'dit_upernet_scenes.py')
    model = Model(DynamicTokenRoutingTransformer)
    entry = describe_model('dit', 'd-1.pth', cfg, 'd.py', model, dict(iter=7, metrics={}))
    path = tmp_path / 'metafile.yml'
    path.write_text(update_metafile(path, ENTRY, overwrite=False, paper=MSViT.paper))
    text = update_metafile(path, entry, overwrite=False, paper=model.backbone.paper)
    first, second = yaml.safe_load(text)['Collections']
    assert (first['Name'], second['Name'], entry['In Collection']) == ('MSViT', 'DiT', 'DiT')
    assert (first['Paper'], second['Paper']) == (MSViT.paper, DynamicTokenRoutingTransformer.paper)
    assert first['Paper']['URL'] != second['Paper']['URL']


@pytest.mark.parametrize(
    ('part', 'task'),
    [
        ('decode_head', 'Semantic Segmentation'),
        ('roi_head', 'Instance Segmentation'),
        ('head', 'Image Classification'),
    ],
)
def test_the_task_is_the_model_s(cfg, part, task):
    model = Model(**{part: torch.nn.Identity()})
    entry = describe_model('m', 'm-1.pth', cfg, 'm.py', model, dict(iter=7, metrics={'score': 1.0}))
    assert entry['Results'][0]['Task'] == task


def test_metafile_grows(tmp_path):
    path = tmp_path / 'metafile.yml'
    path.write_text('Import: [x.yml]\nModels: [{Name: other}]\n')
    path.write_text(update_metafile(path, ENTRY, overwrite=False))
    path.write_text(update_metafile(path, ENTRY | dict(Name='third'), overwrite=False))
    with pytest.raises(ValueError, match="wanted a new model, got 'scenes' again; --overwrite replaces its entry"):
        update_metafile(path, ENTRY, overwrite=False)
    content = yaml.safe_load(update_metafile(path, ENTRY | dict(Weights='new.pth'), overwrite=True))
    assert content['Models'] == [dict(Name='other'), ENTRY | dict(Weights='new.pth'), ENTRY | dict(Name='third')]
    assert [collection['Name'] for collection in content['Collections']] == ['MSViT']
    assert content['Import'] == ['x.yml']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'a: [', 'wanted YAML, got while parsing'),
        (b'\xff\xfe\xfa', 'wanted YAML, got'),
        (b'Models: {}', 'wanted lists of Collections and Models'),
        (b'Models: [1]', 'wanted lists of Collections and Models'),
        (b'- Name: a', 'wanted lists of Collections and Models'),
        (b'', 'wanted lists of Collections and Models'),
    ],
)
def test_other_yaml_files(tmp_path, content, message):
    path = tmp_path / 'metafile.yml'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"metafile '.*metafile.yml': {message}") as error_info:
        update_metafile(path, ENTRY, overwrite=True)
    assert '\n' not in str(error_info.value)
