"""MSViT (DeiT-S) under Segmenter on ADE20K, crops of 512x512, 160k iterations, 8 GPUs x 1, target ratio 0.75.

    bash tools/dist_train.sh configs/msvit_segmenter_ade20k.py 8 --amp

Normalisation and learning rate are those of the ViT-S that Segmenter starts from (mmsegmentation's model zoo,
``vit_small_p16_384_20220308-410f6037.pth``). Download it, then

    python tools/convert_checkpoint.py vit_small_p16_384_20220308-410f6037.pth vit-small.pth \
        --config configs/msvit_segmenter_ade20k.py

and add ``--cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=vit-small.pth``.
The gate loss needs all eight images of a step: with fewer, add ``GateCrops`` to the pipeline.

Not trained yet.
"""

_base_ = [
    '_base_/models/msvit_segmenter.py',
    '_base_/datasets/ade20k_512x512.py',
    '_base_/schedules/sgd_160k.py',
    '_base_/runtime/pretrained.py',
]
model = dict(data_preprocessor=dict(size={{_base_.crop_size}}))
train_dataloader = dict(batch_size=1)
