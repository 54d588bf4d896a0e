"""Convert weights of a plain or a Swin transformer, whoever saved them, into those of MSViT or MSSwin.

python tools/convert_checkpoint.py deit_small_patch16_224.pth deit-small.pth --img-size 512

Plain ones of timm, DeiT, DINOv2, DINOv3, mmseg and mmpretrain; Swin V1 of timm, of its authors and of the hosts. PVTv2,
timm's or its authors', becomes a DynamicTokenRoutingTransformer.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('convert_checkpoint')
