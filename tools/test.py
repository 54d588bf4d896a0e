"""Test a trained model.

python tools/test.py CONFIG CHECKPOINT --work-dir work_dirs/example
"""

from msvit_mm.cli.commands.test import main

if __name__ == '__main__':
    main()
