"""Train a model.

python tools/train.py CONFIG --work-dir work_dirs/example --cfg-options randomness.seed=0
"""

from msvit_cli import run

if __name__ == '__main__':
    run('train')
