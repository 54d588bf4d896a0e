"""Every leaf of ``configs/`` builds; one of each kind trains a step and predicts, on generated and on its own images.

Leaves of a kind share data set, backbone, neck and heads. In the fast tests the first of them stands for all: the
others may differ from it in what ``HARMLESS`` names alone. The slow tests step every leaf at full size. Where crops are
large, the fast tests halve them until a step takes seconds. Real images are those that are at hand; a test whose data
set, or package, is absent is skipped by name.
"""

import ast
import copy
import importlib.util
import inspect
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.dataset import Compose, pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from msvit_mm.checkpoints import check_coverage
from msvit_mm.checkpoints.starting import check_start, needed_keys
from msvit_mm.cli.config import allow_package_bases
from msvit_mm.cli.config_index import render

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
FILES = sorted(CONFIGS.rglob('*.py'), key=lambda path: (len(path.parts), path))  # recipes before studies
BASES = [path for path in FILES if '_base_' in path.relative_to(CONFIGS).parts]
LEAVES = [path for path in FILES if path not in BASES]
OPTIONAL = [path for path in LEAVES if path.parent.name == 'detection']  # inherit from mmdet's own files
LOADED = [path for path in LEAVES if path not in OPTIONAL]
FAST_PIXELS = 10_000
STARTS = r'\.pth: of (studies/\S+\.py)'
DATA = {
    'ADE20KDataset': ['../shared/data/ade20k_sample'],
    'CityscapesDataset': ['../shared/data/cityscapes_sample'],
    'CamVidDataset': ['data/camvid', '../shared/data/camvid'],
}
# In these a leaf may differ from the one that is stepped for it: each has tests of its own, or is a number.
HARMLESS = (
    'model.backbone.gate',
    'model.backbone.gate_gradient',
    'model.backbone.gate_temperature',
    'model.backbone.img_size',
    'model.backbone.merge.before',
    'model.backbone.merge.share',
    'model.backbone.row_stop',
    'model.backbone.train_execution',
    'model.backbone.with_cp',
    'model.boundary_loss',
    'model.utility_loss',
    'model.data_preprocessor.size',
    'model.gate_loss',
    'model.test_cfg',
    'custom_hooks',
    'default_hooks.checkpoint.interval',
    'optim_wrapper.constructor',
    'optim_wrapper.optimizer.lr',
    'optim_wrapper.paramwise_cfg',
    'param_scheduler',
    'train_cfg.max_iters',
    'train_cfg.val_interval',
    'train_dataloader.dataset.pipeline',
    'train_dataloader.dataset.size',
    'val_dataloader.dataset.pipeline',
    'val_dataloader.dataset.size',
    'test_dataloader.dataset.pipeline',
    'test_dataloader.dataset.size',
    'tta_pipeline',
)
# What makes a kind of backbone, neck or head; of a head, all but its classes and their weights.
BACKBONE = (
    'type',
    'arch',
    'patch_size',
    'patch_sizes',
    'num_registers',
    'rope',
    'coarse_embedding',
    'detail',
    'exits',
    'num_stages',
    'extra_depth',
    'merge',
    'out_indices',
    'out_type',
    'init',
)
HEAVY = (  # recipes of smaller networks stand for them
    'msvit_scales_upernet_cityscapes_1024x1024',
    'msvit_upernet_cityscapes',
    'msvit_dinov3_small_upernet_ade20k',
    'dit_upernet_ade20k',
    'dit_classifier_imagenet',
    'msswin_tiny_upernet_ade20k',
)
FOLDER = TemporaryDirectory()
HEADS = ('neck', 'decode_head', 'auxiliary_head', 'head', 'teacher_loss')


@cache
def read(path):
    allow_package_bases()
    return Config.fromfile(path)


def kind(path):
    """The data set, backbone, neck and heads of a leaf."""
    cfg = read(path)
    heads = [dict(cfg.model.get(name) or {}) for name in HEADS]
    heads = [{key: head[key] for key in head if key not in ('num_classes', 'loss_decode')} for head in heads]
    parts = [cfg.model.backbone.get(key) for key in BACKBONE]
    parts = [part.type if isinstance(part, dict) and 'type' in part else part for part in parts]
    return repr((cfg.dataset_type, parts, heads))


STEPPED = {kind(path): path for path in reversed(LOADED)}  # the first leaf of each kind
OTHERS = [path for path in LOADED if path not in STEPPED.values()]


def parametrize(paths):
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


def slow_where_heavy(path):
    return [pytest.mark.slow] if path.stem in HEAVY else []


every_leaf = parametrize(LEAVES)
every_loaded_leaf = parametrize(LOADED)
one_of_each_kind = parametrize(
    [pytest.param(path, marks=slow_where_heavy(path)) for path in LOADED if path not in OTHERS]
)


def load(path, shrink=True):
    """The leaf's config, and by how much its crops are divided to be fast."""
    cfg = copy.deepcopy(read(path))
    cfg.factor = 1
    cfg.model.backbone.drop_path_rate = 0.0  # a branch that both images of a batch drop would not learn
    if shrink and 'pad_small_map' in cfg.model.backbone:
        cfg.model.backbone.pad_small_map = True  # windows are as large as ever
    pixels = max(FAST_PIXELS, 4 * cfg.model.backbone.get('patch_sizes', (0,))[-1] ** 2)  # several regions at least
    while shrink and cfg.crop_size[0] * cfg.crop_size[1] > pixels * cfg.factor**2:
        cfg.factor *= 2
    small = tuple(side // cfg.factor for side in cfg.crop_size)
    for section in ('model', 'train_dataloader', 'crop_size'):
        cfg[section] = replace(cfg[section], tuple(cfg.crop_size), small)
    if 'stride' in cfg.model.get('test_cfg', {}):
        cfg.model.test_cfg.stride = tuple(side // cfg.factor for side in cfg.model.test_cfg.stride)
    init_default_scope(cfg.default_scope)
    if 'teacher_loss' in cfg.model:
        store_weights(cfg.model.teacher_loss.teacher)  # its file is the user's
    return cfg


def store_weights(model):
    path = Path(FOLDER.name) / 'trained.pth'
    torch.save(dict(state_dict=MODELS.build(copy.deepcopy(model)).state_dict()), path)
    model.init_cfg.checkpoint = str(path)


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
    own = cfg.train_dataloader.dataset.get('metainfo')
    if own:
        return own.classes
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
    """Images of the data set's own training pipeline, None if it is absent.

    The samples of ADE20K and Cityscapes are validation images.
    """
    dataset = cfg.train_dataloader.dataset
    if dataset.type == 'ImageNet':
        dataset.data_root = str(imagenet_root)
    elif dataset.type == 'ImageMaskDataset':
        dataset.data_root = str(imagenet_root.parent / 'own')
        write_own_data(Path(dataset.data_root), cfg)
    elif dataset.type in DATA:
        roots = [ROOT / folder for folder in DATA[dataset.type] if (ROOT / folder).is_dir()]
        if not roots:
            return None
        dataset.update(data_root=str(roots[0]), data_prefix=cfg.val_dataloader.dataset.data_prefix)
    dataset = DATASETS.build(dataset)
    set_random_seed(0)  # the crops are numpy's
    return pseudo_collate([dataset[i % len(dataset)] for i in range(num_images)])


def write_own_data(root, cfg):
    """Images and masks as the config of own data expects them, by whatever suffix."""
    generator = np.random.default_rng(0)
    for folder in cfg.train_dataloader.dataset.data_prefix.values():
        (root / folder).mkdir(parents=True, exist_ok=True)
    images, masks = (root / folder for folder in cfg.train_dataloader.dataset.data_prefix.values())
    for i in range(6):
        cv2.imwrite(str(images / f'{i}.jpg'), generator.integers(0, 255, (150, 200, 3), np.uint8))
        cv2.imwrite(str(masks / f'{i}.png'), generator.integers(0, len(classes_of(cfg)), (150, 200), np.uint8))


def check_training_step(cfg, batch):
    if len(cfg.model.backbone.get('patch_sizes', ())) > 2 and 'initial_ratio' in cfg.model.backbone.gate:
        cfg.model.backbone.gate.initial_ratio = 0.5  # a crop has few regions: nodes of each scale have to stay whole
    model = build_model(cfg).train()
    if cfg.model.backbone.gate.type == 'RandomRoutes':  # a node that both images of a batch close would not learn
        model.backbone.gate.low = model.backbone.gate.high = 0.9
    for name, parameter in model.named_parameters():
        if re.search(r'detail\.(\d\.)?outputs', name):  # what is multiplied by their zeros would not learn
            torch.nn.init.normal_(parameter, std=0.1)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    from_no_ops = cfg.model.backbone.get('init') == 'pvtv2'  # what is multiplied by a zero learns in the second step
    for _ in range(1 + from_no_ops):
        logged = model.train_step(copy.deepcopy(batch), wrapper)
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


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text())) or ''


def bases_of(path):
    """Files that a config inherits from, at any depth; not those of other packages."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            for name in ast.literal_eval(node.value):
                if '::' not in name:
                    base = (path.parent / name).resolve()
                    yield base
                    yield from bases_of(base)


def reads_pipeline(node):
    names = [getattr(child, 'id', getattr(child, 'attr', '')) for child in ast.walk(node)]
    return any(name.endswith('pipeline') for name in names)


def flatten(value, prefix=''):
    """Values of a config by dotted key; lists are values."""
    if isinstance(value, dict) and value:
        items = [flatten(item, f'{prefix}.{key}' if prefix else key) for key, item in value.items()]
        return {key: item for flat in items for key, item in flat.items()}
    return {prefix: value}


def test_configs_are_found():
    assert len(LEAVES) == 107
    assert len({path.stem for path in LEAVES}) == len(LEAVES)
    names = ['dense_mask_rcnn_scenes', 'dit_mask_rcnn_coco', 'msvit_mask_rcnn_coco', 'msvit_mask_rcnn_scenes']
    assert [path.stem for path in OPTIONAL] == names
    folders = {leaf.relative_to(CONFIGS).parts[0] for leaf in LEAVES if leaf.parent != CONFIGS}
    assert folders == {'custom', 'detection', 'studies'}
    kinds = {'models', 'heads', 'weights', 'gates', 'datasets', 'schedules', 'runtime'}
    assert {base.parent.name for base in BASES} == kinds


@parametrize(BASES)
def test_every_base_loads_and_is_used(path):
    assert docstring(path)
    assert read(path)
    assert any(path in bases_of(leaf) for leaf in LEAVES)


@every_leaf
def test_docstring_gives_command_hardware_and_score(path):
    words = ' '.join(docstring(path).split())
    name = path.relative_to(ROOT).as_posix()
    assert f'python tools/train.py {name}' in words or f'bash tools/dist_train.sh {name} 8' in words
    assert re.search(r'8 GPUs x \d+|two CPU cores|Wants a GPU', words)
    score = docstring(path).split('\n\n')[-1]
    if score != 'Not trained yet.':
        assert re.search(r'seeds? \d', score) and re.search(r'20\d\d-\d\d-\d\d', score)


@every_leaf
def test_scores_are_those_of_the_documents_that_they_name(path):
    score = docstring(path).split('\n\n')[-1]
    texts = [(ROOT / name).read_text() for name in re.findall(r'(?:docs/)?\w+\.md', score)]
    texts += [(CONFIGS / name).read_text() for name in re.findall(r'metafile\.yml', score)]
    known = [float(number) for text in texts for number in re.findall(r'(?<![\d.])\d*\.\d+', text)]
    for number in re.findall(r'\d+\.\d+(?= |,|;|:)', re.sub(r'a budget of 0\.6|cost 0\.65|0\.75 of', '', score)):
        tolerance = 0.5 * 10.0 ** -len(number.split('.')[1])
        assert any(abs(float(number) - other) <= tolerance * 1.001 for other in known), number


@parametrize(FILES)
def test_no_config_edits_a_pipeline_by_position(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Subscript) and reads_pipeline(node.value))
        assert not (isinstance(node, ast.For | ast.comprehension) and reads_pipeline(node.iter))


@parametrize(OPTIONAL)
def test_optional_leaf_loads_where_its_package_is_installed(path):
    if importlib.util.find_spec('mmdet') is None:
        pytest.skip('mmdet is not installed')
    MODULE2PACKAGE.update(mmdet='mmdet')
    text = path.read_text()
    allow_package_bases()
    cfg = Config.fromfile(path, import_custom_modules=False)
    if cfg.model.backbone.type == 'MSViT':
        assert cfg.model.gate_loss.coarse_ratio == cfg.coarse_ratio == cfg.model.backbone.gate.initial_ratio
    else:
        assert cfg.model.gate_loss.budget == cfg.budget
        assert cfg.model.backbone.gate.type == 'RouteGate'
    assert 'mmcv with its compiled ops' in text


@parametrize(OTHERS)
def test_leaf_differs_harmlessly_from_the_one_stepped_for_it(path):
    def settings(cfg):
        keys = [*inspect.signature(Runner.__init__).parameters, 'tta_model', 'tta_pipeline']
        return flatten({key: cfg[key] for key in keys if key in cfg})

    mine, stepped = settings(read(path)), settings(read(STEPPED[kind(path)]))
    different = [key for key in mine.keys() | stepped.keys() if mine.get(key) != stepped.get(key)]
    assert [key for key in different if not any(f'{key}.'.startswith(f'{name}.') for name in HARMLESS)] == []
    try:
        with torch.device('meta'):
            build_model(load(path, shrink=False))
    except RuntimeError as error:  # a host that reads numbers off tensors as it is built
        assert 'meta tensors' in str(error)
        build_model(load(path, shrink=False))


def test_one_leaf_of_each_kind_is_stepped():
    assert set(STEPPED.values()) | set(OTHERS) == set(LOADED)
    kinds = {(cfg.model.backbone.type, cfg.dataset_type) for cfg in map(read, STEPPED.values())}
    assert kinds == {(cfg.model.backbone.type, cfg.dataset_type) for cfg in map(read, LOADED)}


def test_readme_is_current():
    assert (CONFIGS / 'README.md').read_text() == render(CONFIGS)


def check_numbers_of_regions(cfg):
    backbone, gate, loss = cfg.model.backbone, cfg.model.backbone.gate, cfg.model.gate_loss
    if loss:
        target = loss.a / (loss.a + loss.b) if loss.type == 'BetaShapingLoss' else loss.coarse_ratio
        assert target == gate.initial_ratio == cfg.coarse_ratio
    if not isinstance(gate.get('coarse_ratio'), list | tuple):  # a range is for every ratio
        assert gate.get('coarse_ratio', cfg.coarse_ratio) == cfg.coarse_ratio
    region_size = backbone.get('coarse_patch_size') or backbone.region_size
    grid_size = tuple(-(-side // region_size) for side in cfg.crop_size)
    assert tuple(gate.get('grid_size', grid_size)) == grid_size


def check_numbers_of_routes(cfg):
    model, loss = MODELS.build(cfg.model.backbone), cfg.model.gate_loss
    if loss:
        assert loss.budget == cfg.budget
    table = model.cost_table(cfg.crop_size)
    if cfg.model.backbone.gate.type == 'RandomRoutes':  # beside a learned gate of this budget
        share = model.active_ratio_of(0.6, cfg.crop_size)
        assert cfg.model.backbone.gate.active_ratio == pytest.approx(share, abs=1e-4)
    elif cfg.model.backbone.get('merge') == 'none':  # plain PVTv2
        _, output = model.eval().forward_gated(torch.zeros(1, 3, *cfg.crop_size))
        assert output.costs.total.item() == table.reference
    maps = [model.arch['embed_dims'][row] for row in model.out_indices]
    heads = [cfg.model.get(name) for name in ('neck', 'decode_head', 'head')]
    first = next(head for head in heads if head)
    assert (maps if isinstance(first.in_channels, list) else maps[-1]) == first.in_channels


@every_loaded_leaf
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
    learned = gate.type in ('ScaleGate', 'StaticGate', 'ContextGate', 'RouteGate') and not gate.get('frozen')
    assert bool(loss) == learned  # without a loss of its own a learned gate would become all fine, or all open
    if backbone.type == 'DynamicTokenRoutingTransformer':
        check_numbers_of_routes(cfg)
    else:
        check_numbers_of_regions(cfg)
    crops = [step.crop_size for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']
    assert all(tuple(crop) == size for crop in crops)
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.get('max_iters', cfg.train_cfg.get('max_epochs'))
    assert cfg.log_processor.by_epoch == ('max_epochs' in cfg.train_cfg)
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval


@parametrize([path for path in LEAVES if re.search(STARTS, docstring(path))])
def test_what_a_leaf_starts_from_fits(path):
    """The network whose checkpoint its command takes has all that it needs, before a gate is fitted or without."""
    start = CONFIGS / re.search(STARTS, docstring(path))[1]
    model, weights = build_model(read(path)), build_model(read(start)).state_dict()
    check_coverage(needed_keys(model), weights)
    check_start(model, weights, path.stem)


def test_a_gate_fits_classifier_and_segmentor_of_the_scenes():
    classifier, segmentor = (read(CONFIGS / f'msvit_{n}_scenes.py').model for n in ('classifier', 'upernet'))
    for key in ('mean', 'std'):
        assert classifier.data_preprocessor[key] == segmentor.data_preprocessor[key]
    assert classifier.data_preprocessor.to_rgb == segmentor.data_preprocessor.bgr_to_rgb
    assert classifier.backbone == {k: v for k, v in segmentor.backbone.items() if k != 'out_indices'}


def test_lower_resolution_costs_as_a_mixed_grid_and_is_scored_at_full_resolution():
    cfg = load(CONFIGS / 'studies/baselines/dense_lowres_upernet_scenes.py')
    mixed = read(CONFIGS / 'msvit_upernet_scenes.py')
    rows, cols = (side // mixed.model.backbone.coarse_patch_size for side in mixed.crop_size)
    tokens = rows * cols * (4 - 3 * mixed.coarse_ratio)
    batch = pseudo_collate([DATASETS.build(cfg.test_dataloader.dataset)[0]])
    (sample,) = build_model(cfg).eval().test_step(batch)
    assert sample.num_tokens == pytest.approx(tokens, rel=0.02)
    assert sample.pred_sem_seg.shape == sample.gt_sem_seg.shape == mixed.crop_size
    (training,) = pseudo_collate([DATASETS.build(cfg.train_dataloader.dataset)[0]])['data_samples']
    assert training.gt_sem_seg.shape == training.img_shape == cfg.crop_size


@every_loaded_leaf
def test_hooks_and_test_time_pipeline_build(path):
    cfg = load(path, shrink=False)
    assert [HOOKS.build(hook) for hook in cfg.custom_hooks]
    if is_classifier(cfg):  # has no augmented test
        assert cfg.tta_model is None and 'tta_pipeline' not in cfg
    else:
        Compose(cfg.tta_pipeline)


@one_of_each_kind
def test_step_and_prediction(path, imagenet_root):
    """A step on images of the data set, or on generated ones where it is absent."""
    cfg = load(path)
    batch = real_batch(cfg, imagenet_root) or generated_batch(cfg, cfg.crop_size)
    assert {tuple(image.shape[1:]) for image in batch['inputs']} <= {cfg.crop_size} or cfg.factor == 1
    model = check_training_step(cfg, batch)
    backbone, width = cfg.model.backbone, cfg.crop_size[1] * 5 // 4
    side = 4 * backbone.route_patch if 'route_patch' in backbone else 1  # pixels of what has to fill a row
    check_prediction(cfg, model, (cfg.crop_size[0], -(-width // side) * side))
    assert cfg.tta_model is None or MODELS.build(dict(cfg.tta_model, module=model))


@pytest.mark.slow
@every_loaded_leaf
def test_step_and_prediction_at_full_size(path, imagenet_root):
    cfg = load(path, shrink=False)
    batch = real_batch(cfg, imagenet_root)
    if batch is None:
        pytest.skip(f'{cfg.dataset_type}: none of {DATA[cfg.dataset_type]} exists')
    model = check_training_step(cfg, batch)
    check_prediction(cfg, model, cfg.crop_size)
