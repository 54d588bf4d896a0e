"""Configs by path or by name: where they lie, how they are read, and the options that change them."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.runner import Runner

from ..stack import INSTALL_DETECTION
from .errors import foreign_errors

PACKAGE = Path(__file__).parents[1]
# What is read of a config: the runner's words, and what stands beside them.
BESIDE = ('tta_model', 'tta_pipeline', 'model_wrapper_cfg', 'sync_bn', 'compile', 'device', 'runner_type')
ENTRIES = {*list(inspect.signature(Runner.__init__).parameters)[1:], *BESIDE}


def load_config(
    path: str | Path, options: Mapping[str, Any] | None = None, work_dir: str | None = None, launcher: str = 'none'
) -> Config:
    """Read a config, and merge what the command line says into it.

    Args:
        path: A file, or a name that :func:`find_config` knows.
        options: Entries to override, with dots between the levels of their keys.
        work_dir: Default: the config's own, or else ``work_dirs/<config name>``.
        launcher: What starts the processes.

    Raises:
        ValueError: If there is no such config, or it needs a package that is not there.
    """
    file = find_config(path)
    allow_package_bases()
    with _reading(path):
        cfg = Config.fromfile(file)
    cfg.launcher = launcher
    merge_options(cfg, options or {})
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs') / file.stem)
    return cfg


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    where = f"config '{path}'"
    try:
        with foreign_errors(where):
            yield
    except ValueError as error:
        cause = error.__cause__
        if not isinstance(cause, ImportError):
            raise error if cause else ValueError(f'{where}: {error}') from None
        reason = cause.__context__ or cause  # mmengine hides what a custom import said
        hint = f'; {INSTALL_DETECTION}' if str(reason).startswith('mmdet ') else ''
        raise ValueError(f'{where}: {reason}{hint}') from cause


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge entries, with dots between the levels of their keys, into a config.

    Raises:
        ValueError: If one is nothing that is read of a config, or has no place in it.
    """
    for key in options:
        name = key.partition('.')[0]
        if name in ENTRIES:
            continue
        if name in cfg:
            wanted = f"'{name}' feeds other entries while the file is read, and changes nothing later"
            raise ValueError(f'--cfg-options: {wanted}; set those that it feeds, or edit a copy of the file.')
        close = get_close_matches(name, ENTRIES, n=2)
        hint = f'; close are {", ".join(close)}' if close else ''
        raise ValueError(f"--cfg-options: wanted an entry that a command reads, got '{key}'{hint}.")
    with foreign_errors('--cfg-options'):
        cfg.merge_from_dict(dict(options))


def find_config(path: str | Path) -> Path:
    """The file of a config: the path itself or, below the package's configs, a path with or without ``.py``.

    Raises:
        ValueError: If there is none.

    Example:
        >>> find_config('msvit_upernet_scenes').name
        'msvit_upernet_scenes.py'
    """
    return Path(path) if Path(path).is_file() else find_package_config(path)


def find_package_config(name: str | Path) -> Path:
    """The file of a config of this package, by its path below the folder of configs, with or without ``.py``.

    Raises:
        ValueError: If there is none.
    """
    folder = config_folder()
    for file in (folder / name, folder / f'{name}.py'):
        if file.is_file():
            return file
    files = [file.relative_to(folder) for file in sorted(folder.rglob('*.py'))]
    alike = [file for file in files if (file.parts[0] == '_base_') == (Path(name).parts[:1] == ('_base_',))]
    names = {file.with_suffix('').as_posix(): file.stem for file in alike}
    stems = get_close_matches(Path(name).stem, set(names.values()), n=3)
    close = [name for name, stem in names.items() if stem in stems]
    hint = f'; close are {", ".join(close)}' if close else f'; the package has {len(names)} in {folder}'
    raise ValueError(f"config '{name}': wanted a file or a config of msvit_mm, got neither{hint}.")


def config_folder() -> Path:
    """Where the package's configs lie: in an installed package within it, in a clone beside it."""
    installed = PACKAGE / '.mim' / 'configs'
    return installed if installed.is_dir() else PACKAGE.parent / 'configs'


def seed_of(cfg: Config) -> int:
    """The seed that a config sets; 0 if it sets none."""
    return (cfg.get('randomness') or {}).get('seed') or 0


def allow_package_bases() -> None:
    """Let a ``_base_`` name a config of this package: ``_base_ = 'msvit_mm::msvit_upernet_scenes.py'``.

    mmengine's own lookup wants a folder in the name, knows no clone, and would build all types under a registry scope
    'msvit_mm', which there is not.
    """
    # For `_base_ = 'mmseg::...'`: the fork's distribution is not called mmsegmentation, the import name serves both.
    MODULE2PACKAGE.update(mmseg='mmseg', mmdet='mmdet', msvit_mm='msvit_mm')
    if Config._get_cfg_path is not _find_base:
        Config._get_cfg_path = staticmethod(_find_base)


_find_other_base = Config._get_cfg_path


def _find_base(path: str, filename: str) -> tuple[str, str | None]:
    """The file and the registry scope of a ``_base_`` of the config ``filename``."""
    package, _, name = path.partition('::')
    return (str(find_package_config(name)), None) if package == PACKAGE.name else _find_other_base(path, filename)
