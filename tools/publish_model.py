"""Publish a trained checkpoint without its training state: a folder for the Hub, of safetensors, config and card.

python tools/publish_model.py CONFIG CHECKPOINT published/msvit_upernet_scenes

An output that ends in .pth is one torch file instead, its hash in the name; either has an entry in the metafile beside.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('publish_model')
