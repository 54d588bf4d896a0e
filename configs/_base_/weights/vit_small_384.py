"""ViT-S that Segmenter starts from, from mmsegmentation's model zoo, converted when it is loaded."""

pretrained = dict(
    type='Pretrained',
    checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segmenter/vit_small_p16_384_20220308-410f6037.pth',
    convert=True,
)
