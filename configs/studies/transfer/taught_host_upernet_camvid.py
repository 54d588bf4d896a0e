"""slow_host_upernet_camvid.py with the dense network that it starts from as a teacher of the class scores.

    python tools/train.py configs/studies/transfer/taught_host_upernet_camvid.py --cfg-options load_from=fitted.pth

Runs on two CPU cores. fitted.pth: as there; the teacher is that of the folder which the training of
studies/baselines/dense_continued_upernet_camvid.py writes.

52.13, 51.06 and 52.86 mIoU at 0.311 GMACs, where slow_host_upernet_camvid.py has 52.03, 50.55 and 52.87
(seeds 0, 1 and 2, 2026-11-29, docs/ablations.md).
"""

_base_ = ['slow_host_upernet_camvid.py', '../../_base_/gates/fine.py']
teacher = dict(
    type='GatedEncoderDecoder',
    backbone=dict(_base_.model.backbone, gate=_base_.stand_in, coarse_embedding='shared', detail=None),
    neck=_base_.model.neck,
    decode_head=_base_.model.decode_head,
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/dense_continued_upernet_camvid/iter_1000.pth'),
)
model = dict(teacher_loss=dict(type='TeacherLoss', teacher=teacher))
