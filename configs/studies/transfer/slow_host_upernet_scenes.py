"""MSViT from a dense network trained to its end: the host learns a tenth as fast as in from_dense_upernet_scenes.py.

    python tools/train.py configs/studies/transfer/slow_host_upernet_scenes.py --cfg-options load_from=CONTINUED.pth

Runs on two CPU cores. CONTINUED.pth: of studies/baselines/dense_continued_upernet_scenes.py. Gate, coarse pixels and
detail learn as fast as there.

79.38, 79.52 and 78.97 mIoU at 69 tokens, 81.45, 82.24 and 81.85 all fine, where the dense network trained on for as
long has 82.10, 82.82 and 82.10 (seeds 0, 1 and 2, 2026-11-29, docs/ablations.md).
"""

_base_ = ['from_dense_upernet_scenes.py', '../../_base_/schedules/slow_host.py']
optim_wrapper = {{_base_.slow_host}}
