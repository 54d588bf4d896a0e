"""Who imports whom: cli everything, studies what lies below, nothing below either, the doors cli alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent.name for path in (ROOT / 'msvit_mm').glob('*/__init__.py'))
UPPER = {'cli', 'studies'}


def imported(path):
    """Packages of msvit_mm that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            place = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = '.'.join([*place, node.module or ''])
            found |= {f'{module}.{alias.name}' for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split('.')[1] for name in found if name.startswith('msvit_mm.')} & set(PACKAGES)


@pytest.mark.parametrize('package', [name for name in PACKAGES if name not in UPPER])
def test_nothing_below_imports_cli_or_studies(package):
    files = list((ROOT / 'msvit_mm' / package).rglob('*.py'))
    assert files
    assert not {path.name: imported(path) & UPPER for path in files if imported(path) & UPPER}


def test_studies_import_no_cli():
    files = list((ROOT / 'msvit_mm' / 'studies').glob('*.py'))
    assert imported(ROOT / 'msvit_mm' / 'studies' / 'sweep.py') >= {'checkpoints', 'evaluation', 'visualization'}
    assert not {path.name for path in files if 'cli' in imported(path)}


def test_doors_import_their_command():
    doors = [path for path in (ROOT / 'tools').glob('*.py') if path.stem != 'benchmark_peers']
    assert doors
    for path in doors:
        assert imported(path) == set() and f"run('{path.stem}')" in path.read_text()
