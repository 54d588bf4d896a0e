"""The table of configs is made of their docstrings, and a stale one is noticed."""

import sys

import pytest

from msvit_mm.cli.config_index import describe, find_leaves, main, render

LEAF = '''"""A net of ratio 0.75, see other.py for more. Optional.

    python tools/train.py configs/net.py

1.5 mIoU (seed 0,
2026-11-20).
"""
'''


@pytest.fixture
def folder(tmp_path):
    for name in ('net.py', 'studies/losses/half.py', '_base_/models/base.py'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LEAF)
    return tmp_path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['config_index', *map(str, arguments)])
    main()


def test_first_sentence_and_score_are_one_line_each(folder):
    assert describe(folder / 'net.py') == (
        'A net of ratio 0.75, see other.py for more.',
        '1.5 mIoU (seed 0, 2026-11-20).',
    )


def test_leaves_are_listed_by_group_and_bases_are_not(folder):
    assert [path.name for path in find_leaves(folder)] == ['net.py', 'half.py']
    text = render(folder)
    assert text.index('## Recipes') < text.index('(net.py)') < text.index('## Losses') < text.index('half.py')
    assert 'base.py' not in text and '## Routes' not in text


def test_check_passes_until_a_docstring_changes(folder, monkeypatch):
    with pytest.raises(SystemExit, match=r'error: .*README.md: wanted the docstrings .*; run make configs-readme.'):
        run(monkeypatch, '--check', '--folder', folder)
    assert not (folder / 'README.md').exists()
    run(monkeypatch, '--folder', folder)
    run(monkeypatch, '--check', '--folder', folder)
    (folder / 'net.py').write_text(LEAF.replace('1.5', '1.6'))
    with pytest.raises(SystemExit, match='got others'):
        run(monkeypatch, '--check', '--folder', folder)


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('short.py', '"""One paragraph."""', "config '.*short.py': wanted a docstring that ends with its score"),
        ('elsewhere/net.py', LEAF, "config '.*net.py': wanted a folder of .*, got elsewhere"),
    ],
)
def test_bad_config_is_one_line(folder, monkeypatch, name, text, message):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    with pytest.raises(SystemExit, match=f'error: {message}'):
        run(monkeypatch, '--folder', folder)


def test_folder_without_configs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"wanted .py files in '.*', got none"):
        find_leaves(tmp_path)
