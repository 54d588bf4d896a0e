from .convert import Conversion, describe_backbone, fit_weights, rename_keys, resize_patch_kernel
from .loading import (
    check_coverage,
    check_resumable,
    check_shapes,
    load_checkpoint_safely,
    load_weights_safely,
    use_safe_loader,
)

__all__ = [
    'Conversion',
    'check_coverage',
    'check_resumable',
    'check_shapes',
    'describe_backbone',
    'fit_weights',
    'load_checkpoint_safely',
    'load_weights_safely',
    'rename_keys',
    'resize_patch_kernel',
    'use_safe_loader',
]
