"""Move a trained gate to another task, backbone or image size, as a checkpoint to start the target from.

python tools/transfer_gate.py SOURCE_CONFIG SOURCE_CHECKPOINT TARGET_CONFIG gate.pth
"""

from msvit_cli import run

if __name__ == '__main__':
    run('transfer_gate')
