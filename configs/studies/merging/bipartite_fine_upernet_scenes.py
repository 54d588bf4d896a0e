"""A dense network trained on while 0.36 of its tokens merge before layers 0 and 1, every region fine: merging alone.

    python tools/train.py configs/studies/merging/bipartite_fine_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py. Otherwise
dense_continued_upernet_scenes.py; it costs as much as from_dense_upernet_scenes.py, whose gate does it alone.

80.11 mIoU, 0.0462 GMACs (seed 0, 2026-11-28, docs/merging.md).
"""

_base_ = ['../baselines/dense_continued_upernet_scenes.py']
model = dict(backbone=dict(merge=dict(type='Bipartite', before=(0, 1), share=0.36)))
