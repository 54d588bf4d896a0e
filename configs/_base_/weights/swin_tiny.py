"""Swin-T of ImageNet, from mmpretrain's model zoo."""

pretrained = dict(
    type='Pretrained',
    checkpoint='https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/'
    'swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth',
    prefix='backbone',
)
