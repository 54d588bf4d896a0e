from .loading import check_coverage, check_resumable, check_shapes, load_checkpoint_safely, use_safe_loader

__all__ = ['check_coverage', 'check_resumable', 'check_shapes', 'load_checkpoint_safely', 'use_safe_loader']
