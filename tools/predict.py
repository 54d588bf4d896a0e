"""Segment images or a video with a trained network: classes, what the gate chose, tokens, GMACs and time.

python tools/predict.py CHECKPOINT photo.jpg --budget 100 --out-dir predictions

The config is the one that the checkpoint keeps, unless --config names another.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('predict')
