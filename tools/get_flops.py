"""Count tokens and multiply-adds on the images of the config's test data set, or of a folder.

python tools/get_flops.py CONFIG CHECKPOINT --check --out flops.json
"""

from msvit_cli import run

if __name__ == '__main__':
    run('get_flops')
