"""``python -m msvit_mm.cli`` is ``msvit``."""

from msvit_cli import main

if __name__ == '__main__':
    main()
