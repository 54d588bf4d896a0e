"""Evaluate one trained network under its own gate and under stand-ins of its cost or fixed ones, in one table.

python tools/compare_gates.py CONFIG CHECKPOINT --out-dir work_dirs/gates

The picture shows test images: tokens as outlines, the prediction, of segmentors pale, with wrong pixels in red.
Further networks, each under its own gate, stand beside: --beside dense DENSE_CONFIG DENSE_CHECKPOINT
"""

from msvit_cli import run

if __name__ == '__main__':
    run('compare_gates')
