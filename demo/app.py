"""The page of `msvit demo`, for hosts that want a file.

python demo/app.py CHECKPOINT --port 7860
"""

from msvit_cli import run

if __name__ == '__main__':
    run('demo')
