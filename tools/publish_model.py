"""Publish a trained checkpoint: no optimizer state, its hash in the name, an entry in the metafile beside it.

python tools/publish_model.py CONFIG CHECKPOINT published/msvit_upernet_scenes.pth
"""

from msvit_cli import run

if __name__ == '__main__':
    run('publish_model')
