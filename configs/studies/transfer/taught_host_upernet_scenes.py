"""slow_host_upernet_scenes.py with the dense network that it starts from as a teacher of the class scores.

    python tools/train.py configs/studies/transfer/taught_host_upernet_scenes.py --cfg-options load_from=CONTINUED.pth

Runs on two CPU cores. CONTINUED.pth: of studies/baselines/dense_continued_upernet_scenes.py; the teacher is that of the
folder which its training writes.

79.25 mIoU at 69 tokens, 81.49 all fine, where slow_host_upernet_scenes.py has 79.38 and 81.45
(seed 0, 2026-11-28, docs/ablations.md).
"""

_base_ = ['slow_host_upernet_scenes.py', '../../_base_/gates/fine.py']
teacher = dict(
    type='GatedEncoderDecoder',
    backbone=dict(_base_.model.backbone, gate=_base_.stand_in, coarse_embedding='shared', detail=None),
    neck=_base_.model.neck,
    decode_head=_base_.model.decode_head,
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/dense_continued_upernet_scenes/iter_1000.pth'),
)
model = dict(teacher_loss=dict(type='TeacherLoss', teacher=teacher))
