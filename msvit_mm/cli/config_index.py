"""List all configs with their scores: python -m msvit_mm.cli.config_index --check

Writes ``configs/README.md`` from the docstrings of the configs; with ``--check`` it only says whether that is current.
A docstring begins with a sentence that stands alone and ends with a paragraph of scores, or "Not trained yet."
"""

import ast
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

CONFIGS = Path('configs')
BASES = '_base_'
GROUPS = {
    '.': ('Recipes', 'To train on top of: copy one or name it in `_base_`.'),
    'custom': ('Own data', 'A file to copy and change: docs/own_data.md.'),
    'detection': ('Detection', 'Optional: needs mmdet and mmcv with its compiled ops.'),
    'studies/baselines': ('Baselines', 'What a learned gate is compared with.'),
    'studies/losses': ('Losses', 'How the gate is taught.'),
    'studies/transfer': ('Transfer', 'Gates and weights that come from elsewhere.'),
    'studies/merging': ('Merging', 'Fewer tokens inside the encoder, behind the gate and in its place.'),
    'studies/scales': ('Scales', 'Patch size against image size: dense pairs beside two and three scales.'),
    'studies/routes': ('Routes', 'What learned routes are compared with, and their variants.'),
}


def find_leaves(folder: Path) -> list[Path]:
    """All configs below a folder that are no bases, recipes first.

    Args:
        folder: A folder of configs.

    Raises:
        ValueError: If there are none.
    """
    paths = [path for path in folder.rglob('*.py') if BASES not in path.relative_to(folder).parts]
    if not paths:
        raise ValueError(f"configs: wanted .py files in '{folder}', got none.")
    return sorted(paths, key=lambda path: (len(path.relative_to(folder).parts), path))


def describe(path: Path) -> tuple[str, str]:
    """First sentence and last paragraph, the score, of a config's docstring, each on one line.

    Args:
        path: A config.

    Raises:
        ValueError: If it has no docstring of two paragraphs or more.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ''
    paragraphs = [' '.join(paragraph.split()) for paragraph in docstring.split('\n\n')]
    if len(paragraphs) < 2:
        raise ValueError(f"config '{path}': wanted a docstring that ends with its score, got {docstring!r}.")
    # a sentence ends with a full stop before a capital, not within 0.75 or a file's name
    return re.split(r'(?<=\.)\s+(?=[A-Z])', paragraphs[0])[0], paragraphs[-1]


def render(folder: Path) -> str:
    """The text of the folder's README.md: a table for each group of configs.

    Args:
        folder: A folder of configs.

    Raises:
        ValueError: If a config says too little, or lies in no known group.
    """
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for path in find_leaves(folder):
        group = path.relative_to(folder).parent.as_posix()
        if group not in groups:
            raise ValueError(f"config '{path}': wanted a folder of {', '.join(GROUPS)}, got {group}.")
        name = path.relative_to(folder).as_posix()
        groups[group].append(f'| [`{path.name}`]({name}) | {" | ".join(describe(path))} |')
    parts = [
        '# Configs',
        'Written by `make configs-readme` from the docstrings, which also have commands and hardware: do not edit.',
        'Unless they say otherwise, scores are those of the validation images, after all iterations of the config.',
    ]
    for group, rows in groups.items():
        if rows:
            title, note = GROUPS[group]
            parts += [f'## {title}', note, '\n'.join(['| config | what it is | score |', '|---|---|---|', *rows])]
    return '\n\n'.join(parts) + '\n'


def parse_args() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit with 1 if README.md is not current')
    parser.add_argument('--folder', type=Path, default=CONFIGS, help='folder of configs; default %(default)s')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    readme = args.folder / 'README.md'
    try:
        text = render(args.folder)
    except ValueError as error:
        raise SystemExit(f'error: {error}') from None
    if not args.check:
        readme.write_text(text)
    elif not readme.is_file() or readme.read_text() != text:
        raise SystemExit(f'error: {readme}: wanted the docstrings of the configs, got others; run make configs-readme.')


if __name__ == '__main__':
    main()
