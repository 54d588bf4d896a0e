"""from_dense_upernet_scenes.py with the dense network, trained on to its end, as a teacher of the class scores.

    python tools/train.py configs/studies/transfer/taught_upernet_scenes.py --cfg-options load_from=DENSE.pth

Runs on two CPU cores. DENSE.pth: of studies/baselines/dense_fine_upernet_scenes.py; the teacher: of
dense_continued_upernet_scenes.py there, in the folder that its training writes.

Not trained yet.
"""

_base_ = ['from_dense_upernet_scenes.py', '../../_base_/gates/fine.py']
teacher = dict(
    type='GatedEncoderDecoder',
    backbone=dict(_base_.model.backbone, gate=_base_.stand_in, coarse_embedding='shared', detail=None),
    neck=_base_.model.neck,
    decode_head=_base_.model.decode_head,
    init_cfg=dict(type='Pretrained', checkpoint='work_dirs/dense_continued_upernet_scenes/iter_1000.pth'),
)
model = dict(teacher_loss=dict(type='TeacherLoss', teacher=teacher))
