from .convert import Conversion, describe_backbone, fit_weights, rename_keys, resize_patch_kernel
from .hub import load_from_hub
from .loading import (
    carry_metadata,
    check_coverage,
    check_finite,
    check_resumable,
    check_shapes,
    fetch,
    load_checkpoint_safely,
    load_weights_safely,
    use_safe_loader,
)
from .publish import load_kept_config
from .resuming import find_resumable
from .saving import check_checkpoint_name, check_folder, check_new, checkpoint_bytes, write_files
from .transfer import (
    compare_scale_maps,
    load_gate,
    transfer_gate,
)

__all__ = [
    'Conversion',
    'carry_metadata',
    'check_checkpoint_name',
    'check_coverage',
    'check_finite',
    'check_folder',
    'check_new',
    'check_resumable',
    'check_shapes',
    'checkpoint_bytes',
    'compare_scale_maps',
    'describe_backbone',
    'fetch',
    'find_resumable',
    'fit_weights',
    'load_checkpoint_safely',
    'load_from_hub',
    'load_gate',
    'load_kept_config',
    'load_weights_safely',
    'rename_keys',
    'resize_patch_kernel',
    'transfer_gate',
    'use_safe_loader',
    'write_files',
]
