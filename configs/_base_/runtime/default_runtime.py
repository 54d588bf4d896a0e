"""Runtime of every experiment: registration, logging, the gate's schedule and statistics."""

custom_imports = dict(imports=['msvit_mm'], allow_failed_imports=False)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='GatedSegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
tta_model = dict(type='GatedSegTTAModel')
custom_hooks = [dict(type='GateScheduleHook'), dict(type='GateStatisticsHook')]
