"""``msvit check-dataset`` and the checks of a config: one line with the nearest name, and numbers that are counted."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from msvit_mm.cli.config import load_config
from msvit_mm.cli.config_checks import check_config, classes_of
from msvit_mm.cli.images import check_data
from msvit_mm.studies.survey import survey

OWN = Path(__file__).parents[2] / 'configs' / 'custom' / 'own_data.py'


@pytest.fixture
def own(tmp_path):
    """A config of own data of ten images, and the folder of its masks."""
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    for i in range(10):
        labels = np.zeros((30, 50), np.uint8)
        labels[:10] = 1
        labels[10:15, :25] = 2
        labels[25:] = 255
        cv2.imwrite(str(tmp_path / f'images/{i}.jpg'), np.full((30, 50, 3), 20 * i, np.uint8))
        cv2.imwrite(str(tmp_path / f'masks/{i}.png'), labels)
    config = tmp_path / 'own.py'
    config.write_text(OWN.read_text().replace("'data/own'", repr(str(tmp_path))))  # a copy works anywhere
    return config, tmp_path / 'masks'


def test_shares_sizes_and_a_sheet(run, own, tmp_path):
    printed = run('check-dataset', own[0], '--out', tmp_path / 'sheet.png')
    words = printed.split()
    assert 'train: 8 of 8 images' in printed and 'val: 2 of 2 images' in printed
    assert words[words.index('object') - 1 : words.index('object') + 3] == ['1', 'object', '40.00%', '8']
    assert 'heights 30 to 30, widths 50 to 50' in printed
    assert 'ignored 16.7% of the pixels' in printed
    assert 'warning' not in printed
    assert cv2.imread(str(tmp_path / 'sheet.png')).std() > 10


def test_mostly_ignored_and_absent_classes_are_warned_of(run, own):
    for path in own[1].iterdir():
        labels = np.full((30, 50), 255, np.uint8)
        labels[:4] = 1
        cv2.imwrite(str(path), labels)
    printed = ' '.join(run('check-dataset', own[0], '--split', 'val').split())
    assert 'warning: 86.7% of the pixels are ignored (255): wanted less than half' in printed
    assert "warning: class 'background': no pixel" in printed


def test_labels_outside_end_with_one_line(fail, own):
    cv2.imwrite(str(own[1] / '3.png'), np.full((30, 50), 7, np.uint8))
    assert fail('check-dataset', own[0]) == 'error: labels: wanted classes of the config or 255, got 7 in 3.jpg.'


def test_unmatched_pairs_end_with_one_line(fail, own):
    (own[1] / '3.png').unlink()
    assert 'got 1 images without a mask (3.jpg) and 0 masks' in fail('check-dataset', own[0])


def test_suffix_mistakes_of_host_data_sets(fail, toy_config, toy_data):
    wrong = [f'{split}_dataloader.dataset.img_suffix=.jpg' for split in ('train', 'val')]
    assert "wanted *.jpg in '" in (message := fail('check-dataset', toy_config, '--cfg-options', *wrong))
    assert 'got 4 of .png; img_suffix says which' in message
    wrong = [f'{split}_dataloader.dataset.seg_map_suffix=_x.png' for split in ('train', 'val')]
    assert 'for each of 4 images, got 0; the first missing is' in fail(
        'check-dataset', toy_config, '--cfg-options', *wrong
    )


def test_generated_data(run):
    assert 'train: 3 of 4000 images' in run('check-dataset', 'msvit_upernet_scenes', '--num-images', 3)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            'model.decode_head.num_classes=4',
            'num_classes: wanted one number everywhere, got 3 of the data set, 3 of Che',
        ),
        (
            'model.decode_head.loss_decode.class_weight="[1,2]"',
            'class_weight of decode_head: wanted 3 numbers, .* got 2',
        ),
        (
            'model.backbone.coarse_patchsize=32',
            "MSViT: wanted words .*, got 'coarse_patchsize'; close are coarse_patch_size",
        ),
        ('model.backbone.gate.type=ScaleGat', "gate of MSViT: .* got 'ScaleGat'; close are ScaleGate"),
        ('model.backbone.gate.type=RouteGate', "gate of MSViT: wanted one of ContextGate, .* got 'RouteGate'"),
        ('model.backbone.gate.hidden_dim=32', "gate ScaleGate: .* got 'hidden_dim'; close are hidden_dims"),
        ('model.backbone.type=MSVit', "backbone: wanted a registered one, got 'MSVit'; close are MSViT"),
        ('model.backbone.gate=ScaleGate', r"gate of MSViT: wanted a config such as dict\(type='ScaleGate'\), got 'Sc"),
        ('model.gate_loss.type=BatchShapinLoss', "gate_loss: .* got 'BatchShapinLoss'; close are BatchShapingLoss"),
        ('model.gate_loss.coarse_rate=0.5', "gate_loss BatchShapingLoss: .* got 'coarse_rate'; close are coarse_ratio"),
        ('model.decode_head.type=UperHead', "decode_head: wanted a registered one, got 'UperHead'; close are UPerHead"),
        ('model.type=GatedEncodeDecoder', "model: .*, got 'GatedEncodeDecoder'; close are GatedEncoderDecoder"),
        ('model.utilty_loss=None', "model GatedEncoderDecoder: .* got 'utilty_loss'; close are utility_loss"),
        (
            'train_dataloader.dataset.forground_255=True',
            "train data ImageMaskDataset: wanted words .*, got 'forground_255'; close are foreground_255",
        ),
        (
            'val_dataloader.dataset.type=ImageMaskDatset',
            "val data: .* got 'ImageMaskDatset'; close are ImageMaskDataset",
        ),
    ],
)
@pytest.mark.parametrize('command', ['check-dataset', 'train'])
def test_words_and_numbers_of_the_config(fail, own, command, option, message):
    got = fail(command, own[0], '--cfg-options', option)
    assert re.search(message, got), got


@pytest.mark.parametrize('command', ['get-flops', 'test'])
def test_words_of_the_config_in_other_commands(fail, own, command):
    checkpoint = [own[0].with_suffix('.pth')] if command == 'test' else []
    got = fail(command, own[0], *checkpoint, '--cfg-options', 'model.backbone.gate.hidden_dim=32')
    assert re.search("gate ScaleGate: .* got 'hidden_dim'; close are hidden_dims", got), got


def binary(masks):
    for path in masks.iterdir():
        cv2.imwrite(str(path), np.pad(np.full((10, 50), 255, np.uint8), ((20, 0), (0, 0))))


def test_bad_own_data_end_a_training_with_one_line(fail, own, tmp_path):
    binary(own[1])
    text = (
        own[0]
        .read_text()
        .replace(", 'other')", ')')
        .replace(', [0, 130, 180]]', ']')
        .replace('[1.0, 1.0, 1.0]', '[1.0, 1.0]')
    )
    own[0].write_text(text)
    got = fail('train', own[0], '--work-dir', tmp_path / 'run')
    assert 'wanted numbers of classes, got 0 and 255' in got and 'set foreground_255=True' in got
    (own[1] / '3.png').unlink()
    assert 'got 1 images without a mask (3.jpg)' in fail('train', own[0], '--work-dir', tmp_path / 'run')


@pytest.mark.parametrize('name', ['0.png', '3.png'])
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'no picture', 'cannot identify image file'),
        (np.full((30, 50), 999, np.uint16), 'wanted labels up to 255, which loading keeps, got 999|one channel'),
        (np.zeros((50, 30), np.uint8), 'wanted a mask of the size of its image .turned by its EXIF tag'),
        (np.zeros((30, 50, 3), np.uint8), 'one channel'),
    ],
)
def test_files_that_training_refuses_are_refused_before(fail, own, name, content, message):
    encoded = content if isinstance(content, bytes) else cv2.imencode('.png', content)[1].tobytes()
    (own[1] / name).write_bytes(encoded)
    got = fail('check-dataset', own[0])
    assert re.search(message, got) and name in got


def test_masks_of_0_and_255_are_named(own, capsys):
    """Whatever the number of classes and the kind of data set; once one mask holds a class, they are left in peace."""
    binary(own[1])
    cfg = Config.fromfile(own[0])
    check_data(cfg, 'train')
    assert 'hold 0 and 255 alone, of which 255 counts for nothing; if it is the foreground' in capsys.readouterr().err
    cfg.train_dataloader.dataset = dict(
        type='BaseSegDataset',
        data_root=str(own[1].parent),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        seg_map_suffix='.png',
    )
    check_data(cfg, 'train')
    assert 'hold 0 and 255 alone' in capsys.readouterr().err
    cv2.imwrite(str(own[1] / '3.png'), np.eye(50, dtype=np.uint8))
    for path in own[1].iterdir():
        if path.name not in ('3.png', '4.png'):
            path.unlink()
    check_data(cfg, 'train')
    assert 'hold 0 and 255 alone' not in capsys.readouterr().err


def test_survey_counts():
    samples = [
        dict(img=np.zeros((2, 2, 3)), gt_seg_map=np.array([[0, 1], [255, 255]]), img_path='a/x.png'),
        dict(img=np.zeros((3, 2, 3)), gt_seg_map=np.array([[1, 5]]), img_path='a/y.png'),
    ]
    found = survey(samples, num_classes=2)
    assert found.pixels[[0, 1, 5, 255]].tolist() == [1, 2, 1, 2]
    assert found.images[[0, 1]].tolist() == [1, 2]
    assert found.outside == {5: 'y.png'} and found.mismatched == ['y.png']
    assert found.ignored_share == pytest.approx(1 / 3)
    assert [row['share'] for row in found.class_rows('ab')] == pytest.approx([1 / 3, 2 / 3])


def test_every_recipe_passes(pytestconfig):
    recipes = sorted((pytestconfig.rootpath / 'configs').glob('*.py'))
    assert recipes
    for path in recipes:
        check_config(Config.fromfile(path))


def test_classes_of_data_sets_that_hosts_register():
    cfg = load_config('msvit_upernet_ade20k')
    assert len(classes_of(cfg)) == 150
    cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = 3
    with pytest.raises(ValueError, match='num_classes: wanted one number everywhere, got 150 of the data set'):
        check_config(cfg)
