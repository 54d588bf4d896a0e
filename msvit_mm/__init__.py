"""MSViT mixed-scale vision transformers for mmsegmentation and mmpretrain.

Importing this package registers its components in mmengine's registries; configs do so through
``custom_imports = dict(imports=['msvit_mm'], allow_failed_imports=False)``.
"""

from .stack import check_stack, quiet_imports
from .version import __version__

check_stack()
with quiet_imports():
    from . import backbones, datasets, engine, evaluation, gates, losses, models, visualization

__all__ = [
    '__version__',
    'backbones',
    'datasets',
    'engine',
    'evaluation',
    'gates',
    'losses',
    'models',
    'visualization',
]
