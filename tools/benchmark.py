"""Time a gated segmentor against its dense host on distinct images under stated decisions.

python tools/benchmark.py CONFIG --batch-sizes 1 4 --ratios 0.5 --out benchmark.json
"""

from msvit_cli import run

if __name__ == '__main__':
    run('benchmark')
