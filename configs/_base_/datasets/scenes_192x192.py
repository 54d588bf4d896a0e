"""The procedural scenes of scenes_96x96.py drawn at 192x192 pixels: everything is twice as large."""

_base_ = ['scenes_96x96.py']
crop_size = (192, 192)
train_dataloader = dict(dataset=dict(size=crop_size))
val_dataloader = dict(dataset=dict(size=crop_size))
test_dataloader = val_dataloader
