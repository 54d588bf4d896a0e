"""Package metadata and dependency ranges; requirements.txt pins the tested set."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'msvit_mm' / 'version.py').read_text()).group(1)

setup(
    name='msvit_mm',
    version=VERSION,
    description='MSViT mixed-scale vision transformers for mmsegmentation and mmpretrain',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['msvit_mm', 'msvit_mm.*']),
    python_requires='>=3.10',
    install_requires=['torch>=2.4', 'numpy>=1.26,<3'],
    extras_require={
        # Both stacks own the same import names, so neither is a hard requirement and only one may be installed.
        'onedl': [
            'torchvision',
            'numpy>=2,<3',
            'onedl-mmengine>=0.10.12,<0.11',
            'onedl-mmcv>=2.3.6,<2.4',
            'onedl-mmsegmentation>=1.4.2,<1.5',
            'onedl-mmpretrain>=1.3.6,<1.4',
        ],
        'upstream': [
            'torch<2.6',
            'torchvision',
            'numpy<2',
            'setuptools<81',
            'ftfy',
            'regex',
            'mmengine==0.10.7',
            'mmcv==2.1.0',
            'mmsegmentation==1.2.2',
            'mmpretrain==1.2.0',
        ],
        'safetensors': ['safetensors'],
        'dev': ['pytest', 'pytest-xdist', 'ruff', 'timm', 'safetensors'],
    },
)
