"""The mm packages below this one: are they there, are they there once, and what they say on import."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from importlib import metadata

# Import name -> distributions that install it: the maintained fork first.
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}

# What detection needs beyond them: mmcv's ops compiled against the installed torch.
INSTALL_DETECTION = (
    'install with `pip install onedl-mmdetection` and compile the ops of mmcv (MMCV_WITH_OPS=1) as docs/detection.md '
    'says'
)


def check_stack() -> None:
    """Check that each mm package is importable and installed by one distribution alone.

    A doubled package only warns: both distributions write the same files, so the later one usually still runs.

    Raises:
        ImportError: If a package is missing; the message holds the pip command that mends it.
    """
    installed = {name: [d for d in dists if _is_installed(d)] for name, dists in DISTRIBUTIONS.items()}
    missing = [name for name in DISTRIBUTIONS if importlib.util.find_spec(name) is None]
    if missing:
        upstream = any(not dist.startswith('onedl-') for dists in installed.values() for dist in dists)
        packages = ' '.join(DISTRIBUTIONS[name][upstream] for name in missing)
        raise ImportError(f'msvit_mm needs {", ".join(missing)}; install with `pip install {packages}`.')

    doubled = {name: dists for name, dists in installed.items() if len(dists) > 1}
    if doubled:
        extra = ' '.join(dist for dists in doubled.values() for dist in dists[1:])
        kept = ' '.join(dists[0] for dists in doubled.values())
        warnings.warn(
            f'{", ".join(doubled)} is installed twice, over the same files; keep one with '
            f'`pip uninstall -y {extra} && pip install --force-reinstall --no-deps {kept}`.',
            stacklevel=3,
        )


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Drop the two lines that the mm packages emit on import about optional parts which nothing here uses."""
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.filterwarnings('ignore', message='.*MultiScaleDeformableAttention')
            yield
    finally:
        for line in printed.getvalue().splitlines():
            if line != 'Could not import OneDL':
                print(line)


def _is_installed(distribution: str) -> bool:
    with contextlib.suppress(metadata.PackageNotFoundError):
        metadata.distribution(distribution)
        return True
    return False
