"""Open a page on trained networks: an image, a budget slider, what comes out, and its cost beside the dense network.

python tools/demo.py CHECKPOINT --port 7860

Needs gradio: pip install 'msvit_mm[demo]'. Several checkpoints may be given, the page then offers each by its name.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('demo')
