"""Pages of the documentation that are written from the code: tools, configs and models; a hook of mkdocs.

``mkdocs build`` calls :func:`on_files`: it adds ``tools.md`` from the ``--help`` of every command, ``config_list.md``
from ``configs/README.md`` and ``models.md`` from the metafile. Nothing is written beside the sources.
"""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from msvit_cli import command_names, parse_args

ROOT = Path(__file__).parents[2]
SCORES = ('mIoU', 'accuracy/top1', 'multi-label/mAP')  # metrics of a model, the one that stands for it first


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those of the folder."""
    from mkdocs.structure.files import File  # noqa: PLC0415  # in the environment of mkdocs alone

    pages = {'tools.md': tools_page, 'config_list.md': config_list_page, 'models.md': models_page}
    for name, render in pages.items():
        files.append(File.generated(config, name, content=render()))
    return files


def tools_page() -> str:
    """A section for each command, with what its ``--help`` prints."""
    parts = ['# Tools', 'Each is `msvit COMMAND` and `python tools/COMMAND.py`. Written from `--help`.']
    for name in command_names():
        title = name.replace('_', '-')
        parts.append(f'## {title}\n\n```text\n{help_of(name)}\n```')
    return '\n\n'.join(parts) + '\n'


def help_of(name: str) -> str:
    """What ``msvit NAME --help`` prints, in 100 columns.

    Args:
        name: Of a module of the commands.
    """
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS='100', NO_COLOR='1'),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        parse_args(name, ['--help'], prog=f'msvit {name.replace("_", "-")}')
    return printed.getvalue().strip()


def config_list_page() -> str:
    """``configs/README.md``, its links to files as plain names."""
    text = (ROOT / 'configs' / 'README.md').read_text(encoding='utf-8')
    text = text.replace('# Configs\n', '# List of configs\n', 1)
    return re.sub(r'\[(`[^`]+`)\]\(([^)]+)\)', lambda match: f'`{match[2]}`', text)


def models_page() -> str:
    """The models of the metafile: settings, metrics and the config that makes each."""
    content = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text(encoding='utf-8'))
    parts = [
        '# Models',
        'Networks that were trained and published here, as `configs/metafile.yml` lists them. Their weights are not '
        'hosted: the command in the docstring of each config trains them anew.',
    ]
    for collection in content['Collections']:
        models = [model for model in content['Models'] if model['In Collection'] == collection['Name']]
        if models:
            paper = collection['Paper']
            parts.append(f'## {collection["Name"]}\n\n[{paper["Title"]}]({paper["URL"]})')
            rows = ['| model | config | parameters | metric | GMACs |', '|---|---|---|---|---|']
            rows += [_row(model) for model in models]
            parts.append('\n'.join(rows))
    return '\n\n'.join(parts) + '\n'


def _row(model: dict) -> str:
    metrics = (model.get('Results') or [{}])[0].get('Metrics', {})
    name = next((name for name in SCORES if name in metrics), None)
    score = f'{name.split("/")[-1]} {metrics[name]:.4g}' if name else '-'
    cost = f'{metrics["gmacs"]:.3g}' if 'gmacs' in metrics else '-'
    return f'| `{model["Name"]}` | `{model["Config"]}` | {model["Metadata"]["Parameters"]:,} | {score} | {cost} |'
