"""Store in a checkpoint the gate threshold that meets a budget on a set of images.

python tools/calibrate_gate.py CONFIG CHECKPOINT calibrated.pth --coarse-ratio 0.5
"""

from msvit_cli import run

if __name__ == '__main__':
    run('calibrate_gate')
