"""Fit a gate before training, in about a minute: to labels, to what the other scale would win, or without labels.

python tools/fit_gate.py CONFIG CHECKPOINT fitted.pth --target boundary
"""

from msvit_cli import run

if __name__ == '__main__':
    run('fit_gate')
