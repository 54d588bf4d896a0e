"""Draw what the gate chose over images: scale maps of MSViT, or routes and depths of a token router.

python tools/visualize_gate.py CONFIG CHECKPOINT photo.jpg --out-dir scale_maps

Routes are saved beside each picture as .npz, and summary.png shows the grid with its mean activity and all costs.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('visualize_gate')
