"""MSViT on CamVid from a dense network trained to its end: the host learns a tenth as fast.

    python tools/fit_gate.py configs/studies/transfer/slow_host_upernet_camvid.py CONTINUED.pth fitted.pth \
        --coarse-ratio 0.68
    python tools/train.py configs/studies/transfer/slow_host_upernet_camvid.py --cfg-options load_from=fitted.pth

Runs on two CPU cores. CONTINUED.pth: of studies/baselines/dense_continued_upernet_camvid.py. Coarse pixels and detail
learn as fast as in from_dense_upernet_camvid.py.

52.03, 50.55 and 52.87 mIoU at 0.311 GMACs, 52.83, 51.76 and 52.80 all fine, where the dense network
trained on for as long has 52.98, 53.04 and 53.61 at 0.725 (seeds 0, 1 and 2, 2026-11-29, docs/ablations.md).
"""

_base_ = ['from_dense_upernet_camvid.py', '../../_base_/schedules/slow_host.py']
optim_wrapper = {{_base_.slow_host}}
