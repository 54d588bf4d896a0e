"""MSViT (ViT-S/16) under Segmenter on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 1, target ratio 0.75.

    bash tools/dist_train.sh configs/msvit_segmenter_ade20k.py 8 --amp

Starts from the ViT-S that Segmenter starts from (mmsegmentation's model zoo), downloaded the first time and converted
by ``msvit train``; normalisation and learning rate are of these weights.
The gate loss needs all eight images of a step: with fewer, ``GateCrops`` and ``PackGatedSegInputs`` (docs/gates.md).

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_segmenter.py',
    '_base_/weights/vit_small_384.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/sgd_160k.py',
    '_base_/runtime/pretrained.py',
]
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(init_cfg={{_base_.pretrained}}),
)
train_dataloader = dict(batch_size=1)
