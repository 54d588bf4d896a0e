"""The documentation: its code runs, its links lead somewhere, every command is in it, the README stays short."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from msvit_cli import command_names, parse_args
from msvit_mm.cli import docs_pages

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))


def code_of(name, section):
    """The first block of Python under a heading of a page."""
    text = (ROOT / 'docs' / name).read_text().split(f'## {section}\n')[1]
    return re.search(r'```python\n(.*?)```', text, flags=re.DOTALL)[1]


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


@pytest.mark.parametrize('path', [ROOT / 'README.md', *PAGES], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    generated = {'tools.md', 'config_list.md', 'models.md'} if path.parent.name == 'docs' else set()
    for link, anchor in re.findall(r'\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)', path.read_text()):
        if link not in generated:
            target = path.parent / link if link else path
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), f'{link}#{anchor}'


def anchors_of(path):
    """What mkdocs makes of the headings of a page."""
    headings = re.findall(r'^#+ (.*)$', path.read_text(), flags=re.MULTILINE)
    return {re.sub(r'[-\s]+', '-', re.sub(r'[^\w\s-]', '', heading).strip().lower()) for heading in headings}


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']
    listed = [
        page for entry in nav for pages in (entry.values() if isinstance(entry, dict) else [[entry]]) for page in pages
    ]
    generated = [name for pages in listed for name in pages] if isinstance(listed[0], list) else listed
    missing = {path.name for path in PAGES} - set(generated)
    assert not missing


def commands_of(text):
    """Name and arguments of every command in the blocks of shell."""
    values = dict(re.findall(r'^ *(\w+)="(.*)"', text, flags=re.MULTILINE))
    for block in re.findall(r'^```shell\n(.*?)^```', text, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(re.sub(r'\$(\w+)', lambda match: values.get(match[1], match[0]), line), comments=True)
            for i, word in enumerate(words[:-1]):
                if (tool := re.fullmatch(r'tools/(\w+)\.py', word)) and tool[1] in command_names():
                    yield tool[1], words[i + 1 :]
                elif i == 0 and word == 'msvit' and words[1] != '--help':
                    yield words[1].replace('-', '_'), words[2:]


@pytest.mark.parametrize('path', [ROOT / 'README.md', *PAGES], ids=lambda path: path.name)
def test_commands_take_what_they_are_given(path, capsys):
    for name, words in commands_of(path.read_text()):
        try:
            parse_args(name, words)
        except SystemExit:
            pytest.fail(f'{name} {words}: {capsys.readouterr().err}')


def test_generated_pages():
    tools = docs_pages.tools_page()
    for name in (name.replace('_', '-') for name in command_names()):
        assert f'## {name}\n\n```text\nusage: msvit {name} [-h]' in tools
    configs = docs_pages.config_list_page()
    assert '`custom/own_data.py`' in configs and '](' not in configs
    models = docs_pages.models_page()
    assert '`msvit_upernet_scenes_seed0`' in models and '| mAP 81.12 |' in models and '| - |' not in models


def test_the_gate_of_the_documentation_decides(tiny_arch):
    names: dict = {}
    exec(code_of('extend.md', 'A gate'), names)
    try:
        model = MODELS.build(dict(type='MSViT', arch=tiny_arch, img_size=64, gate=dict(type='DarkGate'))).eval()
        images = torch.ones(1, 3, 64, 96)
        images[..., :32] = -1
        _, choices = model.forward_gated(images)
        assert choices.decisions.tolist() == [[[1, 0, 0], [1, 0, 0]]]
    finally:
        MODELS.module_dict.pop('DarkGate')


def test_colours_become_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'colours').mkdir()
    picture = np.array([[[120, 120, 120], [0, 130, 180], [1, 2, 3]]], np.uint8)
    Image.fromarray(picture).save('colours/a.png')
    exec(code_of('own_data.md', '1. Two folders'), {})
    assert np.asarray(Image.open('masks/a.png')).tolist() == [[0, 2, 255]]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    build = pytest.importorskip('mkdocs.commands.build')
    pytest.importorskip('mkdocstrings')
    pytest.importorskip('material')
    from mkdocs.config import load_config  # noqa: PLC0415  # optional dependency

    cfg = load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(tmp_path), strict=True)
    build.build(cfg)
    assert (tmp_path / 'tools' / 'index.html').is_file()


def test_the_snippet_of_the_readme_trains():
    text = (ROOT / 'README.md').read_text().split('## Use as a backbone\n')[1]
    names: dict = {}
    exec(re.search(r'```python\n(.*?)```', text, flags=re.DOTALL)[1], names)
    init_default_scope('mmseg')
    names['backbone'] |= dict(arch=dict(embed_dims=384, num_layers=2, num_heads=6, feedforward_channels=64))
    model = MODELS.build(names['model']).train()
    wrapper = build_optim_wrapper(model, dict(type='OptimWrapper') | names['optim_wrapper'])
    group = {id(x): group for group in wrapper.param_groups for x in group['params']}
    assert group[id(model.gate_loss.mean_logits)]['weight_decay'] == 0
    assert group[id(model.gate_loss.mean_logits)]['lr'] == 10 * group[id(model.decode_head.conv_seg.weight)]['lr']
    labels = PixelData(data=torch.randint(150, (1, 512, 512)))
    sample = SegDataSample(gt_sem_seg=labels, metainfo=dict(img_shape=(512, 512)))
    losses = model.loss(torch.randn(1, 3, 512, 512), [sample])
    assert {'decode.loss_ce', 'loss_gate_prior'} <= losses.keys()
