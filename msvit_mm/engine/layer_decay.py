"""Layer-wise learning-rate decay for models over a backbone with ``get_layer_depth``."""

from functools import partial
from typing import Any

from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GatedLayerDecayConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's constructor, for any model with a backbone, and with ``lr_mult`` in ``custom_keys``.

    The gate keeps its own learning rate: its ``lr_mult`` multiplies the base rate, undiminished by its depth.

    Example:
        optim_wrapper = dict(
            constructor='GatedLayerDecayConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.75, custom_keys={'backbone.gate': dict(lr_mult=3, decay_mult=0)}))
    """

    def add_params(
        self, params: list[dict], module: Any, prefix: str = '', get_layer_depth: Any = None, **kwargs: Any
    ) -> None:
        if get_layer_depth is None:
            get_layer_depth = partial(module.backbone.get_layer_depth, prefix='backbone.')
        super().add_params(params, module, prefix, get_layer_depth, **kwargs)
        if prefix == '':
            for group in params:
                group['lr'] *= group.pop('lr_mult', 1.0)
