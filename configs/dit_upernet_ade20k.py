"""Token-routed PVTv2-b2 under UPerNet on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 2, budget 0.875.

    bash tools/dist_train.sh configs/dit_upernet_ade20k.py 8 --amp

Start from PVTv2-b2 (timm's ``pvt_v2_b2`` or the authors' ``pvt_v2_b2.pth``), converted first:

    python tools/convert_checkpoint.py pvt_v2_b2.pth dit-b2.pth --config configs/dit_upernet_ade20k.py
    --cfg-options model.backbone.init_cfg.checkpoint=dit-b2.pth model.backbone.init_cfg.type=Pretrained

Not trained yet.
"""

_base_ = [
    '_base_/models/dit_upernet.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime/routes.py',
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={{_base_.route_keys}}))
