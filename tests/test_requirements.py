"""The two lists of versions and the ranges of setup.py agree."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pinned(name):
    return dict(re.findall(r'^([\w-]+)==(\S+)$', (ROOT / name).read_text(), flags=re.MULTILINE))


def as_numbers(version):
    return tuple(map(int, version.split('.')))


def test_oldest_versions_are_the_lower_bounds():
    text = (ROOT / 'setup.py').read_text()
    bounds = {name: bound for name, bound in re.findall(r"'([\w-]+)>=([\d.]+)", text) if name != 'numpy'}
    bounds |= dict(re.findall(r"'(numpy)>=(2[\d.]+)", text))  # what the onedl packages want
    oldest, newest = pinned('requirements-oldest.txt'), pinned('requirements.txt')
    shared = bounds.keys() & oldest.keys()
    assert {'torch', 'numpy', 'rich', 'onedl-mmcv', 'matplotlib', 'opencv-python'} <= shared
    for name in shared:
        wanted = as_numbers(bounds[name])
        assert as_numbers(oldest[name])[: len(wanted)] == wanted, name
        assert as_numbers(newest.get(name, oldest[name])) >= wanted, name
