"""Publish a trained checkpoint: no optimizer state, its hash in the name, an entry in the metafile beside it.

python tools/publish_model.py CONFIG CHECKPOINT published/msvit_upernet_scenes.pth
"""

from msvit_mm.cli.commands.publish_model import main

if __name__ == '__main__':
    main()
