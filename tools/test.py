"""Test a trained model.

python tools/test.py CONFIG CHECKPOINT --work-dir work_dirs/example
"""

from msvit_cli import run

if __name__ == '__main__':
    run('test')
