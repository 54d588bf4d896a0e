"""The procedural scenes of scenes_192x192.py shrunk to 64x64 pixels; predictions are scored at 192x192."""

_base_ = ['scenes_192x192.py']
crop_size = (64, 64)
resize = dict(type='Resize', scale=crop_size)
# labels shrink in training only: scores are at full resolution
train_pipeline = [_base_.load_image, _base_.load_labels, _base_.check_labels, _base_.flip, resize, _base_.pack]
test_pipeline = [_base_.load_image, resize, _base_.load_labels, _base_.check_labels, _base_.pack]
tta_pipeline = [_base_.load_image, resize, _base_.augmented]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
