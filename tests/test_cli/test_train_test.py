"""train.py, test.py and dist_train.sh on a toy dataset: they finish, resume, and refuse bad input in one line."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS

from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.cli.config import load_config

ROOT = Path(__file__).parents[2]
needs_no_gpu = pytest.mark.skipif(get_device() != 'cpu', reason='the error is about a missing GPU')


def test_resume(run, trained, tmp_path, toy_config):
    shutil.copy(trained / 'iter_2.pth', tmp_path / 'start.pth')
    printed = run(
        'train',
        toy_config,
        '--work-dir',
        tmp_path,
        '--resume',
        tmp_path / 'start.pth',
        '--cfg-options',
        'train_cfg.max_iters=4',
    )
    assert 'resumed epoch: 0, iter: 2' in printed
    assert 'weights_only=False' not in printed
    assert load_checkpoint_safely(tmp_path / 'iter_4.pth')['meta']['iter'] == 4
    assert not list(tmp_path.glob('*.part'))


def test_test(run, trained, tmp_path, toy_config):
    printed = run(
        'test',
        toy_config,
        trained / 'iter_2.pth',
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'out',
        '--show-dir',
        tmp_path / 'shown',
    )
    assert 'mIoU' in printed.splitlines()[-1]
    (metrics,) = [json.loads(path.read_text()) for path in tmp_path.glob('2*/2*.json')]
    assert 0 <= metrics['mIoU'] <= 100
    assert len(list((tmp_path / 'out').glob('*.png'))) == 4
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 4


def test_test_time_augmentation(run, trained, tmp_path, toy_config):
    printed = run('test', toy_config, trained / 'iter_2.pth', '--work-dir', tmp_path, '--tta')
    assert 'mIoU' in printed.splitlines()[-1]


@pytest.mark.slow
@needs_no_gpu
def test_two_cpu_processes(run_script, trained, tmp_path, toy_config):
    start = f'load_from={trained / "iter_2.pth"}'
    process = run_script('dist_train.sh', toy_config, 2, '--work-dir', tmp_path, '--cfg-options', start)
    assert process.returncode == 0, process.stderr
    assert 'Could not import OneDL' not in process.stdout
    assert 'MultiScaleDeformableAttention' not in process.stderr
    assert load_checkpoint_safely(tmp_path / 'iter_2.pth')['meta']['iter'] == 2


@needs_no_gpu
@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--amp'], "mixed precision: wanted a device of cuda, .* got 'cpu'"),
        (['--cfg-options', 'device=cuda'], "device: wanted 'cuda', got 'cpu'"),
        (['--launcher', 'slurm'], 'wanted GPUs, got none'),
    ],
)
def test_missing_gpu(fail, tmp_path, arguments, message, toy_config):
    assert re.search(message, fail('train', toy_config, '--work-dir', tmp_path / 'new', *arguments))
    assert not (tmp_path / 'new').exists()


def test_launcher_without_torchrun(fail, monkeypatch, tmp_path, toy_config):
    monkeypatch.delenv('RANK', raising=False)
    assert 'use torchrun' in fail('train', toy_config, '--work-dir', tmp_path, '--launcher', 'pytorch')


def test_missing_config(fail):
    assert "config 'nowhere.py': wanted a file or a config" in fail('train', 'nowhere.py')


@pytest.mark.parametrize('tool, option', [('train', ['--resume']), ('test', [])])
def test_bad_checkpoints(fail, trained, tmp_path, tool, option, toy_config):
    def error(path):
        return fail(tool, toy_config, *option, path, '--work-dir', tmp_path / 'new')

    assert 'wanted a file, got none' in error(tmp_path / 'nowhere.pth')

    truncated = tmp_path / 'truncated.pth'
    truncated.write_bytes((trained / 'iter_2.pth').read_bytes()[:5000])
    assert 'truncated' in error(truncated)

    foreign = tmp_path / 'foreign.pth'
    torch.save({'model': {}}, foreign)
    assert "wanted a dict with a 'state_dict', got the keys model" in error(foreign)
    assert not (tmp_path / 'new').exists()

    checkpoint = load_checkpoint_safely(trained / 'iter_2.pth')
    checkpoint['state_dict'] = {f'encoder.{key}': value for key, value in checkpoint['state_dict'].items()}
    torch.save(checkpoint, foreign)
    assert re.search(r'does not fit the model: (\d+) of \1 weights are missing', error(foreign))
    assert not list(tmp_path.rglob('iter_*.pth'))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            'model.decode_head.num_classes=4',
            'num_classes: wanted one number everywhere, got 3 of the data set, 4 of',
        ),
        ('model.decode_head.channels=4', 'decode_head.conv_seg.weight: wanted (3, 4, 1, 1), got (3, 8, 1, 1)'),
    ],
)
def test_another_head(fail, trained, tmp_path, toy_config, option, message):
    got = fail('test', toy_config, trained / 'iter_2.pth', '--work-dir', tmp_path, '--cfg-options', option)
    assert message in got


@pytest.mark.slow
def test_starts_from_weights_of_something_else(fail, run, trained, tmp_path, toy_config):
    def error(*options):
        return fail('train', toy_config, '--work-dir', tmp_path / 'new', '--cfg-options', *options)

    wider = ('model.backbone.arch.embed_dims=32', 'model.decode_head.in_channels=32')
    message = error(f'load_from={trained / "iter_2.pth"}', *wider)
    assert re.search(r"load_from '.*iter_2.pth': |does not fit the model: backbone.*: wanted .*32", message)
    checkpoint = load_checkpoint_safely(trained / 'iter_2.pth')
    weights = {f'encoder.{key}': value for key, value in checkpoint['state_dict'].items()}
    torch.save(dict(state_dict=weights), tmp_path / 'foreign.pth')
    start = 'model.backbone.init_cfg'
    recipe = (f'{start}.type=Pretrained', f'{start}.checkpoint={tmp_path / "foreign.pth"}')
    message = error(*recipe)
    assert "foreign.pth' of backbone: wanted some of the" in message and 'got encoder.backbone' in message
    assert 'wanted some of the' in error(*recipe, f'{start}.prefix=neck')
    weights = {key: value * torch.nan if value.ndim else value for key, value in checkpoint['state_dict'].items()}
    torch.save(checkpoint | dict(state_dict=weights), tmp_path / 'nan.pth')
    assert 'wanted finite numbers, got NaN' in error(f'load_from={tmp_path / "nan.pth"}')
    assert 'wanted finite numbers, got NaN' in fail('test', toy_config, tmp_path / 'nan.pth', '--work-dir', tmp_path)
    resumed = fail('train', toy_config, '--work-dir', tmp_path / 'new', '--resume', tmp_path / 'nan.pth')
    assert 'wanted finite numbers, got NaN' in resumed
    assert not list(tmp_path.rglob('iter_*.pth'))
    new_classes = ['model.decode_head.num_classes=4', f'load_from={trained / "iter_2.pth"}']
    for name in (f'{split}_dataloader.dataset.metainfo' for split in ('train', 'val', 'test')):
        new_classes += [f'{name}.classes=(a,b,c,d)', f'{name}.palette=[[0,0,0],[1,1,1],[2,2,2],[3,3,3]]']
    run('train', toy_config, '--work-dir', tmp_path / 'new', '--cfg-options', *new_classes)


def test_the_road_from_a_dense_network(run, fail, tmp_path):
    """Its weights start a network whose coarse tokens get more, which is said; the other way round is refused."""
    dense, own = (f'studies/{name}_upernet_scenes' for name in ('baselines/dense_fine', 'transfer/from_dense'))
    weights = MODELS.build(load_config(dense).model).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'dense.pth')
    words = ('num_workers=0', 'persistent_workers=False', 'batch_size=2', 'dataset.num_images=2')
    few = [f'{split}_dataloader.{word}' for split in ('train', 'val') for word in words]
    options = ('--cfg-options', *few, 'train_cfg.max_iters=1', 'default_hooks.checkpoint.interval=1')
    run('train', own, '--work-dir', tmp_path / 'own', *options, f'load_from={tmp_path / "dense.pth"}')
    said = ''.join(path.read_text() for path in (tmp_path / 'own').rglob('*.log'))
    assert 'No weights of backbone.coarse_pixels, backbone.detail: zero, as if they were not there' in said
    assert re.search(r'GateCalibrationHook: coarse ratio 0\.7\d+ on 2 training images', said)
    back = ('--work-dir', tmp_path / 'back', *options, f'load_from={tmp_path / "own" / "iter_1.pth"}')
    message = fail('train', dense, *back)
    assert 'wanted a model with backbone.coarse_pixels, which the weights have, got one without; set model.' in message
    message = fail('test', dense, tmp_path / 'own' / 'iter_1.pth', '--work-dir', tmp_path)
    assert 'wanted a model with backbone.coarse_pixels' in message
    message = fail('train', own, *back, 'model.backbone.detail.levels=[0,7]')
    assert "detail: wanted levels among the 3 maps of out_type='featmap', got levels (0, 7)" in message


@pytest.mark.parametrize(
    ('start', 'goal', 'word', 'parts'),
    [
        pytest.param(
            *('baselines/dense_fine_upernet', 'studies/merging/exits_upernet', [], 'backbone.exits'),
            marks=pytest.mark.slow,
        ),
        ('routes/pvt_upernet', 'dit_upernet', ['model.backbone.init=pvtv2'], 'backbone.merge_scales, backbone.nodes'),
    ],
)
def test_a_dense_network_starts_what_has_more(run, tmp_path, start, goal, word, parts):
    dense = MODELS.build(load_config(f'studies/{start}_scenes').model)
    torch.save(dict(state_dict=dense.state_dict()), tmp_path / 'dense.pth')
    words = ('num_workers=0', 'persistent_workers=False', 'batch_size=2', 'dataset.num_images=2')
    few = [f'{split}_dataloader.{x}' for split in ('train', 'val') for x in words]
    options = ('--cfg-options', *few, 'train_cfg.max_iters=1', f'load_from={tmp_path / "dense.pth"}', *word)
    run('train', f'{goal}_scenes', '--work-dir', tmp_path / 'new', *options)
    said = ''.join(path.read_text() for path in (tmp_path / 'new').rglob('*.log'))
    assert f'No weights of {parts}: as the config initialises them.' in said


def test_a_token_budget_out_of_reach(fail, tmp_path):
    config, checkpoint = ROOT / 'configs' / 'msvit_upernet_scenes.py', tmp_path / 'random.pth'
    torch.save(dict(state_dict=MODELS.build(Config.fromfile(config).model).state_dict()), checkpoint)
    options = ('--work-dir', tmp_path, '--cfg-options', 'model.backbone.token_budget=1')
    message = fail('test', config, checkpoint, *options)
    assert 'token_budget: wanted at least 36 tokens (all regions coarse) for images of (96, 96)' in message


def test_weights_alone_cannot_be_resumed(fail, trained, tmp_path, toy_config):
    weights = tmp_path / 'weights.pth'
    torch.save({'state_dict': load_checkpoint_safely(trained / 'iter_2.pth')['state_dict']}, weights)
    assert 'cannot resume' in fail('train', toy_config, '--work-dir', tmp_path, '--resume', weights)


def test_damaged_latest_checkpoint_is_left_alone(fail, trained, tmp_path, toy_config):
    damaged = tmp_path / 'iter_2.pth'
    damaged.write_bytes(b'half a file')
    (tmp_path / 'last_checkpoint').write_text(str(damaged))
    assert 'truncated' in fail('train', toy_config, '--work-dir', tmp_path, '--resume')
    assert damaged.read_bytes() == b'half a file'


def test_waiting_needs_a_window(fail, trained, toy_config, tmp_path):
    message = fail('test', toy_config, trained / 'iter_2.pth', '--work-dir', tmp_path, '--wait-time', 3)
    assert '--wait-time: wanted --show beside it, got 3 alone' in message


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('custom_hooks=[dict(type="GateScheduelHook")]', 'GateScheduelHook is not in the'),
        ('model.decode_head.channel=32', r"unexpected keyword argument 'channel'"),
        ('model.decode_head.loss_decode.type=DiceLos', 'DiceLos is not in the'),
        ('model.backbone.train_ratios=0.5', 'config .*: TypeError: '),
        ('model.gate_loss.coarse_ratio=0,5', 'config .*: TypeError: '),
        ('train_cfg.max_iter=2', r"unexpected keyword argument 'max_iter'"),
        ('train_dataloader.batch_sizes=2', r"unexpected keyword argument 'batch_sizes'"),
        ('val_evaluator.0.type=IoUMetrics', 'IoUMetrics is not in the'),
        ('optim_wrapper.type=OptimWraper', 'before the end of the first iteration: KeyError: .*OptimWraper'),
        ('optim_wrapper.optimizer.lr=1e-3x', 'before the end of the first iteration: TypeError'),
        ('train_cfg.val_interval=0', 'train_cfg.val_interval: wanted a whole number of at least 1, got 0'),
        (
            'val_evaluator=[dict(type="IoUMetric", iou_metrics=["mIuO"])]',
            'the first iteration: .*mIuO',
        ),
        ('default_hooks.checkpoint.save_best=mDice', "save_best: wanted one of aAcc, mIoU, mAcc, got 'mDice'"),
        ('param_scheduler=[dict(type="LinearLr")]', 'before the end of the first iteration: KeyError: .*LinearLr'),
    ],
)
def test_words_that_constructors_refuse(fail, tmp_path, toy_config, option, message):
    key, _, value = option.partition('=')
    options = ('--cfg-options', f'{key}={value}')
    if value.startswith('['):
        config = tmp_path / 'x.py'
        config.write_text(f'_base_ = {toy_config!r}\n{option}\n')
        toy_config, options = config, ()
    assert re.search(message, fail('train', toy_config, '--work-dir', tmp_path / 'w', *options))


@pytest.mark.parametrize('command', ['train', 'test'])
@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model=None', 'wanted model, .*, got no model'),
        ('model.data_preprocessor=None', "before the end of the first iteration: AttributeError: 'list'"),
        ('model.test_cfg.mode=slide', "before the end of the first iteration: AttributeError: .*'stride'"),
    ],
)
def test_what_a_config_lacks(fail, trained, tmp_path, toy_config, command, option, message):
    checkpoint = [trained / 'iter_2.pth'] if command == 'test' else []
    got = fail(command, toy_config, *checkpoint, '--work-dir', tmp_path, '--cfg-options', option)
    assert re.search(message, got)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['train', '--amp', '--cfg-options', 'optim_wrapper=None'], 'train_cfg, optim_wrapper, got no optim_wrapper'),
        (['test', 'CHECKPOINT', '--tta', '--cfg-options', 'tta_model=None'], '--tta: wanted tta_model in the config'),
        (['test', 'CHECKPOINT', '--cfg-options', 'test_dataloader=None'], 'test_evaluator, got no test_dataloader'),
        (['get-flops', '--cfg-options', 'model=None', 'randomness=None'], 'wanted a model, got none'),
    ],
)
def test_what_a_command_works_with(fail, trained, toy_config, arguments, message):
    command, *others = [trained / 'iter_2.pth' if x == 'CHECKPOINT' else x for x in arguments]
    assert message in fail(command, toy_config, *others)


def test_another_optimizer_cannot_go_on(fail, trained, tmp_path, toy_config):
    shutil.copy(trained / 'iter_2.pth', tmp_path / 'start.pth')
    options = ('--cfg-options', 'train_cfg.max_iters=4', 'optim_wrapper.optimizer.type=Adamax')
    message = fail('train', toy_config, '--work-dir', tmp_path, '--resume', tmp_path / 'start.pth', *options)
    assert 'resuming: load_from starts anew where another optimizer or other parts train: KeyError' in message


def test_errors_of_a_training_that_runs_keep_their_traceback(monkeypatch, run, tmp_path, toy_config):
    """Past the first iteration an error is no word's of the config."""

    def fails(self, runner, **words):
        if runner.iter == 1:
            raise KeyError('later')

    monkeypatch.setattr('msvit_mm.engine.GateScheduleHook.before_train_iter', fails)
    monkeypatch.setattr('msvit_mm.engine.FiniteLossHook.before_train_iter', fails, raising=False)
    with pytest.raises(KeyError, match='later'):
        run('train', toy_config, '--work-dir', tmp_path)


def test_tracebacks_on_demand(monkeypatch, run, tmp_path, toy_config):
    monkeypatch.setenv('MSVIT_TRACEBACK', '1')
    with pytest.raises(TypeError):
        run('train', toy_config, '--work-dir', tmp_path, '--cfg-options', 'model.decode_head.channel=32')


def test_predictions_of_one_name_are_not_lost(fail, trained, toy_config, toy_data, tmp_path):
    for folder in ('images', 'labels'):
        for day in ('monday', 'tuesday'):
            shutil.copytree(toy_data / folder, tmp_path / folder / day)
    words = ('--out', tmp_path / 'out', '--cfg-options', f'test_dataloader.dataset.data_root={tmp_path}')
    got = fail('test', toy_config, trained / 'iter_2.pth', '--work-dir', tmp_path / 'w', *words)
    assert "--out: wanted images of different names, got '0' twice" in got


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--show', '--show-dir', 'x'], '--show, --show-dir: wanted one of them, got both'),
        (['--show'], '--show: wanted a display, got none'),
        (['--show-dir', 'x', '--cfg-options', 'visualizer=None'], 'wanted default_hooks.visualization and visualizer'),
    ],
)
def test_what_cannot_be_shown(monkeypatch, fail, trained, toy_config, tmp_path, words, message):
    monkeypatch.delenv('DISPLAY', raising=False)
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    monkeypatch.setattr('sys.platform', 'linux')
    assert message in fail('test', toy_config, trained / 'iter_2.pth', '--work-dir', tmp_path, *words)


def test_a_run_says_whose_checkpoints_it_replaces(run, trained, toy_config, tmp_path):
    shutil.copy(trained / 'iter_2.pth', tmp_path)
    printed = run('train', toy_config, '--work-dir', tmp_path)
    assert f'{tmp_path / "iter_2.pth"} is of an earlier run, whose checkpoints this one replaces; --resume' in printed
