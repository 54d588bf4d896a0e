"""Store in a checkpoint the gate threshold that meets a budget on a set of images.

python tools/calibrate_gate.py CONFIG CHECKPOINT calibrated.pth --coarse-ratio 0.5
"""

from msvit_mm.cli.commands.calibrate_gate import main

if __name__ == '__main__':
    main()
