"""Plot mIoU against GMACs, and time, for any set of configs and checkpoints, and any of them swept over budgets.

python tools/plot_tradeoff.py OUT_DIR --model learned CONFIG CHECKPOINT --budgets 40 60 80 --random 0.5 0.75
"""

from msvit_cli import run

if __name__ == '__main__':
    run('plot_tradeoff')
