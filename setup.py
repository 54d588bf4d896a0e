"""Package metadata and dependency ranges; requirements.txt pins the tested set."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'msvit_mm' / 'version.py').read_text()).group(1)


class BuildWithConfigs(build_py):
    """Put configs and tools into a wheel as ``msvit_mm/.mim``, where mim and mmengine look for them.

    An editable install copies nothing: the package then finds the configs of the clone.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'msvit_mm' / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
        for name in ('configs', 'tools'):
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns('__pycache__', '.*'))
        shutil.copy(ROOT / 'model-index.yml', target)


setup(
    name='msvit_mm',
    version=VERSION,
    description='MSViT mixed-scale vision transformers for mmsegmentation and mmpretrain',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='msvit_mm developers',
    project_urls={'Paper': 'https://arxiv.org/abs/2307.02321'},
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    license='Apache-2.0',
    packages=find_packages(include=['msvit_cli', 'msvit_mm', 'msvit_mm.*']),
    package_data={'msvit_mm': ['py.typed']},
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={'console_scripts': ['msvit = msvit_cli:main']},
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.4',
        'numpy>=1.26,<3',
        'matplotlib>=3.9',
        'opencv-python>=4.10',
        'pillow>=9.3',
        'pyyaml>=6.0.1',
        'rich>=13',
        'safetensors>=0.4.3',
    ],
    extras_require={
        # The maintained forks own the import names of the original packages, so they are no hard requirement: who has
        # the original ones keeps them (docs/guide.md says what they need).
        'onedl': [
            'torchvision',
            'numpy>=2.0.1,<3',
            'onedl-mmengine>=0.10.12,<0.11',
            'onedl-mmcv>=2.3.6,<2.4',
            'onedl-mmsegmentation>=1.4.2,<1.5',
            'onedl-mmpretrain>=1.3.6,<1.4',
        ],
        'demo': ['gradio>=6,<7'],
        'docs': ['mkdocs>=1.6,<2', 'mkdocs-material>=9.5,<10', 'mkdocstrings[python]>=1,<2'],
        'export': ['onnx', 'onnxruntime', 'onnxscript'],
        'hub': ['huggingface_hub'],
        'timm': ['timm'],
        'dev': [
            'pytest',
            'pytest-xdist',
            'pytest-cov',
            'ruff',
            'mypy',
            'types-PyYAML',
            'import-linter',
            'pre-commit',
            'pre-commit-hooks',
            'timm',
            'huggingface_hub',
            'onnx',
            'onnxruntime',
            'onnxscript',
        ],
    },
)
