"""Convert the weights of a plain vision transformer into those of MSViT: timm, DeiT, DINOv2, mmseg or mmpretrain.

python tools/convert_checkpoint.py deit_small_patch16_224.pth deit-small.pth --img-size 512

PVTv2, timm's or its authors', becomes a DynamicTokenRoutingTransformer.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('convert_checkpoint')
