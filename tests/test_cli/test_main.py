"""The ``msvit`` command: its list, its errors, and the call in the docstring of every command."""

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from timm.models.vision_transformer import VisionTransformer

import msvit_mm.cli.commands
from msvit_cli import docstring, main
from msvit_mm.cli.config import load_config
from msvit_mm.cli.machine import choose_device

FOLDER = Path(msvit_mm.cli.commands.__file__).parent
COMMANDS = sorted(path.stem for path in FOLDER.glob('[!_]*.py'))
ON_PATH = dict(PYTHONPATH=str(FOLDER.parents[2]))
SMALL = """
_base_ = 'msvit_mm::msvit_upernet_scenes.py'
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader = dict(num_workers=0, persistent_workers=False, batch_size=2, dataset=dict(num_images=4))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(num_images=4))
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(num_images=4))
"""
WRITTEN = dict(
    train='work_dirs/example/last_checkpoint',
    test='work_dirs/example/20*/20*.json',
    export='exported/scenes.onnx.json',
    get_flops='flops.json',
    benchmark='benchmark.json',
    calibrate_gate='calibrated.pth',
    check_dataset='sheet.png',
    compare_gates='work_dirs/gates/gates.png',
    convert_checkpoint='deit-small.pth',
    demo='launched',
    fit_gate='fitted.pth',
    plot_tradeoff='OUT_DIR/tradeoff.png',
    predict='predictions/photo_labels.png',
    publish_model='published/msvit_upernet_scenes/model.safetensors',
    scenes_to_coco='scenes_coco/annotations/instances_val2017.json',
    transfer_gate='gate.pth',
    visualize_gate='scale_maps/photo.png',
)
SHORTER = dict(fit_gate=['--steps', 2], scenes_to_coco=['--num-images', 3, 2])
LONG = ('benchmark', 'compare_gates', 'export', 'plot_tradeoff')  # these have tests of their own, on less
CALLS = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in COMMANDS]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with all that the docstrings name."""
    path = tmp_path_factory.mktemp('commands')
    (path / 'small.py').write_text(SMALL)
    cfg = load_config(path / 'small.py')
    text = cfg.pretty_text
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)  # decisions that differ
    meta = dict(cfg=text, dataset_meta=DATASETS.get(cfg.test_dataloader.dataset.type).METAINFO, iter=2, epoch=0)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path / 'random.pth')
    deit = VisionTransformer(embed_dim=384, depth=12, num_heads=6)
    torch.save(deit.state_dict(), path / 'deit_small_patch16_224.pth')
    image = torch.randint(256, (70, 90, 3), generator=torch.Generator().manual_seed(0)).numpy().astype('uint8')
    cv2.imwrite(str(path / 'photo.jpg'), image)
    return path


@pytest.mark.parametrize('name', CALLS)
def test_call_of_the_docstring(run, monkeypatch, folder, name):
    monkeypatch.chdir(folder)
    if name == 'demo':  # would listen for ever
        launch = 'gradio.Blocks.launch'
        monkeypatch.setattr(pytest.importorskip('gradio') and launch, lambda *args, **words: Path('launched').touch())
    docstring = ast.get_docstring(ast.parse((FOLDER / f'{name}.py').read_text()))
    (call,) = [line for line in docstring.splitlines() if line.startswith('msvit ')]
    words = dict(CONFIG='small.py', CHECKPOINT='random.pth')
    words |= {f'{prefix}_{word}': file for prefix in ('SOURCE', 'TARGET') for word, file in words.items()}
    _, command, *arguments = (words.get(word, word) for word in shlex.split(call))
    assert command == name.replace('_', '-')
    run(command, *arguments, *SHORTER.get(name, []))
    assert list(folder.glob(WRITTEN[name]))


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h']])
def test_help_lists_every_command_with_its_first_line(capsys, monkeypatch, arguments):
    monkeypatch.setattr(sys, 'argv', ['msvit', *arguments])
    main()
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith('  ')]
    assert [name for name, _ in lines] == [name.replace('_', '-') for name in COMMANDS]
    assert dict(lines)['train'] == 'Train a model.'
    assert all(text.endswith('.') for _, text in lines)


@pytest.mark.parametrize('command', [['--help'], ['train', '--help'], ['benchmark', '--no-such-option']])
def test_help_and_mistakes_import_nothing_heavy(command):
    code = 'import sys, atexit\natexit.register(lambda: print("torch" in sys.modules))\n'
    code += f'from msvit_cli import main; main({command})'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | ON_PATH)
    assert done.stdout.splitlines()[-1] == 'False'
    assert 'usage: msvit' in done.stdout + done.stderr


def test_help_keeps_the_lines_of_the_docstring(capsys):
    with pytest.raises(SystemExit, match='^0$'):
        main(['export', '--help'])
    assert f'\n{docstring("export")}\n' in capsys.readouterr().out


@pytest.mark.parametrize(('there', 'chosen'), [(True, 'cuda'), (False, 'cpu')])
def test_device_auto(monkeypatch, there, chosen):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there)
    assert [choose_device(device) for device in ('auto', 'cpu', 'cuda')] == [chosen, 'cpu', 'cuda']


@pytest.mark.parametrize('spelling', ['get-flops', 'get_flops'])
def test_hyphens_and_underscores(capsys, monkeypatch, spelling):
    monkeypatch.setattr(sys, 'argv', ['msvit'])
    with pytest.raises(SystemExit, match='^0$'):
        main([spelling, '--help'])
    assert capsys.readouterr().out.startswith('usage: msvit get-flops [-h]')


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ('trian', "wanted a command, got 'trian'; close are train."),
        ('compare_gate', "wanted a command, got 'compare_gate'; close are compare-gates"),
        ('zzz', "wanted a command, got 'zzz'; there are benchmark, calibrate-gate"),
    ],
)
def test_unknown_command_is_one_line(fail, command, message):
    assert message in fail(command)


def test_no_command_takes_what_it_ignores(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['msvit'])
    takers = {'--launcher': [], '--work-dir': []}
    for name in COMMANDS:
        with pytest.raises(SystemExit, match='^0$'):
            main([name, '--help'])
        printed = capsys.readouterr().out
        for option in takers:
            takers[option] += [name] if option in printed else []
    assert takers['--launcher'] == ['test', 'train']
    assert takers['--work-dir'] == ['compare_gates', 'plot_tradeoff', 'test', 'train']
