"""msvit_segmenter_ade20k.py with the mask transformer on the tokens, so that the decoder shrinks with them.

    bash tools/dist_train.sh configs/msvit_mixedsegmenter_ade20k.py 8 --amp

Pretrained weights as in msvit_segmenter_ade20k.py, whose checkpoints fit.

Not trained yet.
"""

_base_ = ['msvit_segmenter_ade20k.py']
model = dict(backbone=dict(out_type='tokens'), decode_head=dict(type='MixedScaleMaskTransformerHead'))
