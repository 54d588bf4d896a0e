"""Look at the data of a config before training: pairs, classes, labels, sizes, and a sheet of examples.

python tools/check_dataset.py CONFIG --out sheet.png

Ends with exit status 1 if labels lie outside the classes, or files or words of the config do not fit.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('check_dataset')
