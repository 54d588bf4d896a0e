"""The page of `msvit demo`, for hosts that want a file.

python demo/app.py CHECKPOINT --port 7860
"""

from msvit_mm.cli.commands.demo import main

if __name__ == '__main__':
    main()
