"""Every leaf of ``configs/`` builds, trains a step and predicts, on generated images and on its own data set's.

Models are the leaf's own. Where its crops are large, the fast tests halve them until a step takes seconds; the slow
ones take them whole. Real images are those that are at hand; a test whose data set is absent is skipped by name.
"""

import ast
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, init_default_scope
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

ROOT = Path(__file__).parents[1]
LEAVES = sorted((ROOT / 'configs').glob('*.py'))
BASES = sorted((ROOT / 'configs/_base_').rglob('*.py'))
FAST_PIXELS = 40_000
DATA = {
    'ADE20KDataset': ['../shared/data/ade20k_sample'],
    'CityscapesDataset': ['../shared/data/cityscapes_sample'],
    'CamVidDataset': ['data/camvid', '../shared/data/camvid'],
}
every_leaf = pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)


def load(path, shrink=True):
    """The leaf's config, and by how much its crops are divided to be fast."""
    cfg = Config.fromfile(path)
    cfg.factor = 1
    cfg.model.backbone.drop_path_rate = 0.0  # a branch that both images of a batch drop would not learn
    while shrink and cfg.crop_size[0] * cfg.crop_size[1] > FAST_PIXELS * cfg.factor**2:
        cfg.factor *= 2
    small = tuple(side // cfg.factor for side in cfg.crop_size)
    for section in ('model', 'train_dataloader', 'crop_size'):
        cfg[section] = replace(cfg[section], tuple(cfg.crop_size), small)
    if 'stride' in cfg.model.get('test_cfg', {}):
        cfg.model.test_cfg.stride = tuple(side // cfg.factor for side in cfg.model.test_cfg.stride)
    init_default_scope(cfg.default_scope)
    return cfg


def replace(value, old, new):
    """Every tuple that equals ``old``, at any depth, becomes ``new``."""
    if isinstance(value, dict):
        return ConfigDict({key: replace(item, old, new) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return new if tuple(value) == old else type(value)(replace(item, old, new) for item in value)
    return value


def build_model(cfg):
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build(cfg.model))


def is_classifier(cfg):
    return cfg.default_scope == 'mmpretrain'


def classes_of(cfg):
    return DATASETS.get(f'{cfg.default_scope}.{cfg.dataset_type}').METAINFO['classes']


def generated_batch(cfg, size, num_images=2):
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(num_images)]
    meta = dict(img_shape=size, ori_shape=size, img_path='image.png')
    if is_classifier(cfg):
        samples = [DataSample(metainfo=meta).set_gt_label(i % len(classes_of(cfg))) for i in range(num_images)]
        return dict(inputs=inputs, data_samples=samples)
    labels = [torch.randint(len(classes_of(cfg)), (1, *size)) for _ in inputs]
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=meta) for label in labels]
    return dict(inputs=inputs, data_samples=samples)


def real_batch(cfg, imagenet_root, num_images=2):
    """Images of the data set's own training pipeline; the samples of ADE20K and Cityscapes are validation images."""
    dataset = cfg.train_dataloader.dataset
    if dataset.type == 'ImageNet':
        dataset.data_root = str(imagenet_root)
    elif dataset.type in DATA:
        roots = [ROOT / folder for folder in DATA[dataset.type] if (ROOT / folder).is_dir()]
        if not roots:
            pytest.skip(f'{dataset.type}: none of {DATA[dataset.type]} exists')
        dataset.update(data_root=str(roots[0]), data_prefix=cfg.val_dataloader.dataset.data_prefix)
    dataset = DATASETS.build(dataset)
    return pseudo_collate([dataset[i % len(dataset)] for i in range(num_images)])


def check_training_step(cfg, batch):
    model = build_model(cfg).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    logged = model.train_step(batch, wrapper)
    assert logged['loss'].isfinite()
    after = dict(model.named_parameters())
    assert all(parameter.isfinite().all() for parameter in after.values())
    assert [name for name in before if torch.equal(after[name], before[name])] == []
    return model


def check_prediction(cfg, model, size):
    batch = generated_batch(cfg, size, num_images=1)
    with torch.no_grad():
        (sample,) = model.eval().test_step(batch)
    if is_classifier(cfg):
        assert sample.pred_score.shape == (len(classes_of(cfg)),)
        assert sample.pred_score.isfinite().all()
    else:
        assert sample.pred_sem_seg.shape == size
        assert 0 <= sample.pred_sem_seg.data.min() <= sample.pred_sem_seg.data.max() < len(classes_of(cfg))
        assert sample.seg_logits.data.isfinite().all()
    assert sample.gmacs > sample.backbone_gmacs > 0
    evaluator = Evaluator(cfg.val_evaluator)
    evaluator.dataset_meta = dict(classes=classes_of(cfg))
    evaluator.process([sample], batch)
    metrics = evaluator.evaluate(1)
    assert 0 <= metrics[cfg.default_hooks.checkpoint.save_best] <= 100
    assert metrics['gmacs'] == sample.gmacs


def test_configs_are_found():
    assert len(LEAVES) >= 4
    assert {base.parent.name for base in BASES} == {'_base_', 'models', 'datasets', 'schedules'}


@pytest.mark.parametrize('path', BASES, ids=lambda path: path.stem)
def test_every_base_loads_and_is_used(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert Config.fromfile(path)
    name = path.relative_to(ROOT / 'configs').as_posix()
    assert any(name in leaf.read_text() for leaf in LEAVES)


@every_leaf
def test_docstring_gives_the_command(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert f'configs/{path.name}' in docstring
    assert 'tools/train.py' in docstring or 'tools/dist_train.sh' in docstring


@every_leaf
def test_numbers_agree(path):
    cfg = load(path, shrink=False)
    backbone, size = cfg.model.backbone, tuple(cfg.crop_size)
    assert tuple(backbone.img_size) == size
    heads = [cfg.model.get(name) for name in ('head', 'decode_head', 'auxiliary_head')]
    assert {head.num_classes for head in heads if head} == {cfg.num_classes} == {len(classes_of(cfg))}
    if not is_classifier(cfg):
        assert tuple(cfg.model.data_preprocessor.size) == size
        assert tuple(cfg.model.test_cfg.get('crop_size', size)) == size
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            (check,) = [step for step in loader.dataset.pipeline if step.type == 'CheckLabels']
            assert check.num_classes == cfg.num_classes
    gate, loss = backbone.gate, cfg.model.gate_loss
    learned = gate.type in ('ScaleGate', 'StaticGate') and not gate.get('frozen')
    assert bool(loss) == learned  # without a loss of its own a learned gate would become all fine
    if learned:
        target = loss.a / (loss.a + loss.b) if loss.type == 'BetaShapingLoss' else loss.coarse_ratio
        assert target == gate.initial_ratio == cfg.coarse_ratio
    if path.stem != 'random_ratios_upernet_scenes':  # which is for every ratio
        assert gate.get('coarse_ratio', cfg.coarse_ratio) == cfg.coarse_ratio
    grid_size = tuple(-(-side // backbone.coarse_patch_size) for side in size)
    assert tuple(gate.get('grid_size', grid_size)) == grid_size
    crops = [step.crop_size for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']
    assert all(tuple(crop) == size for crop in crops)
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.get('max_iters', cfg.train_cfg.get('max_epochs'))
    assert cfg.log_processor.by_epoch == ('max_epochs' in cfg.train_cfg)
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval


def test_a_gate_fits_classifier_and_segmentor_of_the_scenes():
    classifier, segmentor = (
        Config.fromfile(ROOT / f'configs/msvit_{n}_scenes.py').model for n in ('classifier', 'upernet')
    )
    for key in ('mean', 'std'):
        assert classifier.data_preprocessor[key] == segmentor.data_preprocessor[key]
    assert classifier.data_preprocessor.to_rgb == segmentor.data_preprocessor.bgr_to_rgb
    assert classifier.backbone == {k: v for k, v in segmentor.backbone.items() if k != 'out_indices'}


def test_lower_resolution_costs_as_a_mixed_grid_and_is_scored_at_full_resolution():
    cfg = load(ROOT / 'configs/dense_lowres_upernet_scenes.py')
    mixed = Config.fromfile(ROOT / 'configs/msvit_upernet_scenes.py')
    rows, cols = (side // mixed.model.backbone.coarse_patch_size for side in mixed.crop_size)
    tokens = rows * cols * (4 - 3 * mixed.coarse_ratio)
    batch = pseudo_collate([DATASETS.build(cfg.test_dataloader.dataset)[0]])
    (sample,) = build_model(cfg).eval().test_step(batch)
    assert sample.num_tokens == pytest.approx(tokens, rel=0.02)
    assert sample.pred_sem_seg.shape == sample.gt_sem_seg.shape == mixed.crop_size
    (training,) = pseudo_collate([DATASETS.build(cfg.train_dataloader.dataset)[0]])['data_samples']
    assert training.gt_sem_seg.shape == training.img_shape == cfg.crop_size


@every_leaf
def test_hooks_and_test_time_augmentation_build(path):
    cfg = load(path)
    assert [HOOKS.build(hook) for hook in cfg.custom_hooks]
    if is_classifier(cfg):  # has no augmented test
        assert cfg.tta_model is None and 'tta_pipeline' not in cfg
        return
    assert MODELS.build(dict(cfg.tta_model, module=build_model(cfg)))
    Compose(cfg.tta_pipeline)


@every_leaf
def test_step_and_prediction_on_generated_images(path):
    cfg = load(path)
    model = check_training_step(cfg, generated_batch(cfg, cfg.crop_size))
    check_prediction(cfg, model, (cfg.crop_size[0], cfg.crop_size[1] * 5 // 4))


@every_leaf
def test_step_on_the_images_of_its_data_set(path, imagenet_root):
    cfg = load(path)
    batch = real_batch(cfg, imagenet_root)
    assert {tuple(image.shape[1:]) for image in batch['inputs']} <= {cfg.crop_size} or cfg.factor == 1
    check_training_step(cfg, batch)


@pytest.mark.slow
@every_leaf
def test_step_and_prediction_at_full_size(path, imagenet_root):
    cfg = load(path, shrink=False)
    model = check_training_step(cfg, real_batch(cfg, imagenet_root))
    check_prediction(cfg, model, cfg.crop_size)
