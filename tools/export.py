"""Export a model for images of one size: a file for each budget of tokens, and a list of them.

python tools/export.py CONFIG CHECKPOINT exported/scenes.onnx --token-budget 60 90 --size 96 96 --with-gate

Without --token-budget every token is computed and masked: exact for what the gate decides, without any saving.
Networks take normalised images and return class scores at the images' size.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('export')
