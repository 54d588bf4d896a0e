"""At the end of training the coarse ratio is the one asked for, in the checkpoints and in what is recorded of them."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

from msvit_mm.checkpoints import load_checkpoint_safely
from msvit_mm.cli.config import load_config
from msvit_mm.cli.guards import add_guards
from msvit_mm.cli.images import load_split
from msvit_mm.cli.models import build_gated_model, build_runner
from msvit_mm.engine import GateCalibrationHook, calibration
from msvit_mm.engine.calibration import group_windows, mean_costs, record_gate
from msvit_mm.gates import RegionGate, build_region_gate

RATIO = 0.6
FEW = 60


@pytest.fixture
def make_config(tmp_path):
    """Scenes, a few iterations: by then a gate that starts at 0.75 is not at the ratio asked for."""

    def make(work_dir, **options):
        loader = dict(num_workers=0, persistent_workers=False)
        few = {f'{split}_dataloader.{name}': value for split in ('train', 'val') for name, value in loader.items()}
        few |= {
            'train_dataloader.batch_size': 4,
            'train_dataloader.dataset.num_images': FEW,
            'val_dataloader.dataset.num_images': 8,
            'model.gate_loss.coarse_ratio': RATIO,
            'train_cfg.max_iters': 4,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.checkpoint.max_keep_ckpts': 9,
            'custom_hooks': [dict(type='GateScheduleHook', warmup=0.0), dict(type='GateCalibrationHook')],
            'log_level': 'WARNING',
            'randomness.seed': 0,
        }
        return load_config('msvit_upernet_scenes', few | options, str(tmp_path / work_dir))

    return make


def train(cfg):
    runner = build_runner(cfg)
    add_guards(runner)
    runner.train()
    return runner


def ratio_of(cfg, checkpoint):
    model = build_gated_model(cfg, str(checkpoint), 'cpu')
    images = [record_gate(model, batch, with_decoder=False) for batch in load_split(cfg, 'train')]
    return mean_costs(model.backbone, group_windows(images), 0.0)['coarse_ratio']


@pytest.mark.slow
def test_the_ratio_asked_for_is_the_ratio_got(make_config, tmp_path):
    cfg = make_config('run')
    runner = train(cfg)
    before, after = (ratio_of(cfg, tmp_path / 'run' / f'iter_{step}.pth') for step in (2, 4))
    assert abs(before - RATIO) > 0.05
    assert after == pytest.approx(RATIO, abs=0.01)
    # what the validation scored is what was saved
    saved = load_checkpoint_safely(tmp_path / 'run' / 'iter_4.pth')['state_dict']
    for name, weight in runner.model.state_dict().items():
        assert torch.equal(weight, saved[name]), name
    (best,) = (tmp_path / 'run').glob('best_*')
    step = best.stem.rpartition('_')[2]
    same = load_checkpoint_safely(tmp_path / 'run' / f'iter_{step}.pth')['state_dict']
    assert all(torch.equal(same[name], x) for name, x in load_checkpoint_safely(best)['state_dict'].items())

    again = make_config('again', load_from=str(tmp_path / 'run' / 'iter_2.pth'), resume=True)
    train(again)
    resumed = load_checkpoint_safely(tmp_path / 'again' / 'iter_4.pth')['state_dict']
    assert all(torch.equal(resumed[name], weight) for name, weight in saved.items())


@pytest.mark.parametrize(
    ('backbone', 'gate_loss'),
    [
        (dict(gate=dict(type='ScaleGate', frozen=True)), dict(type='RatioLoss')),
        (dict(gate=dict(type='EdgeGate')), None),
        (dict(gate=dict(type='ScaleGate')), None),  # nobody says a ratio
        (dict(type='DynamicTokenRoutingTransformer', arch='b0', img_size=(64, 96)), dict(type='BudgetLoss', budget=1)),
    ],
)
def test_what_has_no_ratio_to_learn_is_left_alone(tiny_arch, backbone, gate_loss):
    words = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96)) | backbone
    dims = 32 if words['type'] == 'MSViT' else 256
    head = dict(type='FCNHead', in_channels=dims, channels=8, num_convs=1, num_classes=3)
    model = MODELS.build(dict(type='GatedEncoderDecoder', backbone=words, decode_head=head, gate_loss=gate_loss))
    state = {name: x.clone() for name, x in model.state_dict().items()}
    logger = MagicMock()
    GateCalibrationHook().calibrate(SimpleNamespace(model=model, hooks=[], cfg={}, logger=logger))
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    assert not logger.mock_calls


@pytest.fixture
def calibrate(monkeypatch):
    """Calibrate a model on noise, and return the coarse ratios there of it and of others."""
    batches = [dict(inputs=[torch.randn(3, 64, 96)], data_samples=[SegDataSample()]) for _ in range(8)]
    monkeypatch.setattr(calibration, 'training_images', lambda *args, **words: batches)

    def call(model, *averages):
        hooks = [EMAHook() for _ in averages]
        for hook, average in zip(hooks, averages, strict=True):
            hook.ema_model = SimpleNamespace(module=average)
        runner = SimpleNamespace(model=model, hooks=hooks, cfg=dict(test_dataloader=True), logger=MagicMock())
        GateCalibrationHook().calibrate(runner)
        ratios = []
        for x in (model, *averages):
            images = group_windows([record_gate(x.eval(), batch, with_decoder=False) for batch in batches])
            ratios.append(mean_costs(x.backbone, images, 0.0)['coarse_ratio'])
        return ratios

    return call


def build_segmentor(arch, gate_loss, **backbone):
    gate = dict(type='ScaleGate', sample_size=8)
    return MODELS.build(
        dict(
            type='GatedEncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor'),
            backbone=dict(type='MSViT', arch=arch, img_size=(64, 96), gate=gate, **backbone),
            decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3),
            gate_loss=gate_loss,
            test_cfg=dict(mode='whole'),
        )
    )


def test_of_three_scales_the_mean_ratio_is_the_one_asked_for(tiny_arch, calibrate):
    losses = [dict(type='RatioLoss', coarse_ratio=ratio) for ratio in (0.3, 0.5)]
    model = build_segmentor(tiny_arch, dict(type='NestedGateLoss', losses=losses), patch_sizes=(8, 16, 32))
    assert calibrate(model) == [pytest.approx(0.4, abs=0.02)]


def test_averaged_weights_have_a_threshold_of_their_own(tiny_arch, calibrate):
    models = [build_segmentor(tiny_arch, dict(type='RatioLoss', coarse_ratio=0.4), patch_size=8) for _ in range(2)]
    for model, std in zip(models, (3, 30), strict=True):
        torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=std)
    assert calibrate(*models) == [pytest.approx(0.4, abs=0.02)] * 2
    assert not torch.equal(*(model.backbone.gate.layers[-1].bias for model in models))


def test_a_gate_without_logits_says_so_before_the_training(tiny_arch):
    model = build_segmentor(tiny_arch, dict(type='RatioLoss'), patch_size=8)
    gates = [dict(type='ScaleGate', sample_size=8), dict(type='FixedGate')]
    model.backbone.gate = build_region_gate(dict(type='NestedGate', gates=gates), RegionGate, (8, 16, 32))
    with pytest.raises(ValueError, match='wanted one whose logits can shift'):
        GateCalibrationHook().before_train(SimpleNamespace(model=model))
    model.backbone.gate.requires_grad_(False)
    GateCalibrationHook().before_train(SimpleNamespace(model=model))


def test_without_a_test_pipeline_a_warning_is_all(tiny_arch):
    backbone = dict(type='MSViT', arch=tiny_arch, img_size=(64, 96), gate=dict(type='ScaleGate'))
    head = dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3)
    model = MODELS.build(
        dict(type='GatedEncoderDecoder', backbone=backbone, decode_head=head, gate_loss=dict(type='RatioLoss'))
    )
    runner = MagicMock(spec=Runner, model=model, cfg={}, logger=MagicMock())
    GateCalibrationHook().calibrate(runner)
    assert 'no test_dataloader' in runner.logger.warning.call_args.args[0]


def test_errors():
    with pytest.raises(ValueError, match=r'coarse_ratio must lie in \(0, 1\), got 1'):
        GateCalibrationHook(coarse_ratio=1)
    with pytest.raises(ValueError, match=r'num_images must lie in \[1, inf\), got 0'):
        GateCalibrationHook(num_images=0)
