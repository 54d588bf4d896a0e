"""Token-routed PVTv2-b2 under Semantic FPN on ADE20K, PVT's recipe: 40k iterations, 8 GPUs x 2 images, budget 0.875.

    bash tools/dist_train.sh configs/dit_fpn_ade20k.py 8 --amp

Start from converted weights as in dit_upernet_ade20k.py.

Not trained yet.
"""

_base_ = [
    '_base_/models/dit_fpn.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/adamw_40k.py',
    '_base_/runtime/routes.py',
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={{_base_.route_keys}}))
