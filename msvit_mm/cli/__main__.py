"""``python -m msvit_mm.cli`` is ``msvit``."""

from .main import main

if __name__ == '__main__':
    main()
