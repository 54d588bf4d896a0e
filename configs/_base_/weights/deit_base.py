"""DeiT-B of ImageNet, from mmpretrain's model zoo."""

pretrained = dict(
    type='Pretrained',
    checkpoint='https://mmassets.onedl.ai/mmclassification/v0/deit/deit-base_pt-16xb64_in1k_20220216-db63c16c.pth',
    prefix='backbone',
)
