"""MSViT (DeiT-S) under UPerNet on ADE20K with learning rates that fall by 0.75 from each layer to the one below it.

    bash tools/dist_train.sh configs/studies/transfer/layer_decay_upernet_ade20k.py 8 --amp

8 GPUs x 2 images. Otherwise msvit_upernet_ade20k.py, pretrained weights included: what layers near the image have
learned moves less. The gate, which starts from nothing, keeps its own rate.

Not trained yet.
"""

_base_ = ['../../msvit_upernet_ade20k.py']
optim_wrapper = dict(constructor='GatedLayerDecayConstructor', paramwise_cfg=dict(layer_decay_rate=0.75))
