"""Configs by path and by name, the errors beside them, and bases that are configs of this package."""

import pytest
from mmengine.config import Config

from msvit_mm.cli.config import config_folder, find_config, load_config, seed_of

SCENES = 'msvit_upernet_scenes'


def test_path_options_and_work_dir(tmp_path):
    path = tmp_path / 'small_model.py'
    path.write_text("_base_ = 'mmseg::_base_/default_runtime.py'\n")
    cfg = load_config(path, {'log_level': 'ERROR', 'randomness': dict(seed=3)})
    assert cfg.default_scope == 'mmseg'
    assert cfg.log_level == 'ERROR'
    assert cfg.work_dir == 'work_dirs/small_model'
    assert cfg.launcher == 'none'
    assert seed_of(cfg) == 3
    assert load_config(path, work_dir='elsewhere').work_dir == 'elsewhere'
    assert seed_of(load_config(path)) == 0


def test_names_of_the_package_hold_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(SCENES) == find_config(f'{SCENES}.py') == config_folder() / f'{SCENES}.py'
    assert find_config('_base_/runtime/default_runtime').is_file()
    assert load_config(SCENES).work_dir == f'work_dirs/{SCENES}'
    (tmp_path / SCENES).mkdir()
    assert find_config(SCENES).parent == config_folder()
    (tmp_path / f'{SCENES}.py').touch()
    assert str(find_config(f'{SCENES}.py')) == f'{SCENES}.py'  # a file goes first


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'msvit_upernet_scene',
            r"config 'msvit_upernet_scene': wanted a file .*, got neither; close are .*upernet_scenes",
        ),
        ('_base_/default_runtim', 'got neither; close are _base_/runtime/default_runtime'),
        (f'nowhere/{SCENES}.py', f'got neither; close are (.*, )?{SCENES}'),
        (
            'zzz.py',
            r"'zzz.py': wanted a file or a config of msvit_mm, got neither; the package has \d+ in .*configs",
        ),
    ],
)
def test_absent_config_names_the_close_ones(name, message):
    with pytest.raises(ValueError, match=message) as error_info:
        load_config(name)
    assert '\n' not in str(error_info.value)
    assert ('_base_' in str(error_info.value)) == name.startswith('_base_')  # parts of configs only beside parts


@pytest.mark.parametrize('base', [f'{SCENES}.py', SCENES])
def test_base_of_the_package(tmp_path, base):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'msvit_mm::{base}'\ntrain_cfg = dict(max_iters=3)\n")
    cfg, own = load_config(path), load_config(SCENES)
    assert cfg.train_cfg.max_iters == 3
    assert cfg.model == own.model  # without a registry scope
    assert Config.fromfile(path).model == own.model
    path.write_text("_base_ = ['msvit_mm::_base_/runtime/default_runtime.py']\n")
    assert load_config(path).default_scope == 'mmseg'


def test_absent_base_of_the_package(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'msvit_mm::msvit_upernet_scene.py'\n")
    with pytest.raises(ValueError, match=f'got neither; close are .*{SCENES}'):
        load_config(tmp_path / 'mine.py')


def test_wheel_holds_the_configs_within(tmp_path, monkeypatch):
    monkeypatch.setattr('msvit_mm.cli.config.PACKAGE', tmp_path / 'msvit_mm')
    assert config_folder() == tmp_path / 'configs'
    (tmp_path / 'msvit_mm' / '.mim' / 'configs').mkdir(parents=True)
    assert config_folder() == tmp_path / 'msvit_mm' / '.mim' / 'configs'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', r"config '.*x.py': SyntaxError: '\(' was never closed"),
        ('size = 3 + crop', "NameError: name 'crop' is not defined"),
        ('width = (3)[0]', "TypeError: 'int' object is not subscriptable"),
        ("_base_ = 'nowhere.py'", 'FileNotFoundError'),
        ("_base_ = 'mmsegg::x.py'", 'please specify the package name'),
        ("_base_ = ['a.py', 'b.py']", 'KeyError: Duplicate key is not allowed among bases'),
        (b'name = "\xff"', 'codec can.t decode byte 0xff'),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, message):
    for name in 'ab':
        (tmp_path / f'{name}.py').write_text('same = 1')
    path = tmp_path / 'x.py'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error_info:
        load_config(path)
    assert str(error_info.value).startswith(f"config '{path}'") and '\n' not in str(error_info.value)


def test_a_file_that_is_no_config(tmp_path):
    (tmp_path / 'random.pth').write_bytes(b'weights')
    with pytest.raises(ValueError, match=r"config '.*random.pth': OSError: Only py/yml/yaml/json type are supported"):
        load_config(tmp_path / 'random.pth')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(batch_sice=4), "wanted an entry that a command reads, got 'batch_sice'$|got 'batch_sice'\\.$"),
        ({'train_dataloder.batch_size': 4}, "got 'train_dataloder.batch_size'; close are train_dataloader"),
        (dict(max_iters=5), "'max_iters' feeds other entries while the file is read, and changes nothing later"),
        ({'train_dataloader.dataset.pipeline.99.type': 'Resize'}, '--cfg-options: KeyError: Index 99 exceeds'),
    ],
)
def test_options_that_nothing_reads(options, message):
    with pytest.raises(ValueError, match=message):
        load_config(SCENES, options)
