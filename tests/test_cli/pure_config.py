"""A pure-Python config: its types are the classes themselves."""

from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import ConcatDataset, DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import FCNHead, SegDataPreProcessor
from mmseg.visualization import SegLocalVisualizer
from torch.nn import SyncBatchNorm
from torch.optim import AdamW

from msvit_mm.backbones import MSViT
from msvit_mm.datasets import CheckLabels
from msvit_mm.gates import ScaleGate
from msvit_mm.models import GatedEncoderDecoder

default_scope = 'mmseg'
model = dict(
    type=GatedEncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, mean=[127.5] * 3, std=[127.5] * 3, size=(32, 48), seg_pad_val=255),
    backbone=dict(
        type=MSViT,
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=(32, 48),
        gate=dict(type=ScaleGate, initial_ratio=0.5),
        train_execution='packed',
    ),
    decode_head=dict(
        type=FCNHead,
        in_channels=16,
        channels=8,
        num_convs=1,
        num_classes=3,
        norm_cfg=dict(type=SyncBatchNorm, requires_grad=True),
    ),
    test_cfg=dict(mode='whole'),
)
pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(type=CheckLabels, num_classes=3),
    dict(type=PackSegInputs),
]
dataset = dict(
    type=BaseSegDataset,
    data_root='data/toy',
    data_prefix=dict(img_path='images', seg_map_path='labels'),
    img_suffix='.png',
    metainfo=dict(classes=('ground', 'object', 'sky'), palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]]),
    pipeline=pipeline,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(type=ConcatDataset, datasets=[dataset, dataset]),
)
val_dataloader = test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False), dataset=dataset
)
val_evaluator = test_evaluator = [dict(type=IoUMetric, iou_metrics=['mIoU'])]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
default_hooks = dict(checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2))
visualizer = dict(type=SegLocalVisualizer, name='visualizer')
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
