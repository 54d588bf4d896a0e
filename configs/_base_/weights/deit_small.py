"""DeiT-S of ImageNet, from mmpretrain's model zoo."""

pretrained = dict(
    type='Pretrained',
    checkpoint='https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth',
    prefix='backbone',
)
