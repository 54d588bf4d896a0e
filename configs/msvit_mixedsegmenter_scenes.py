"""MSViT from scratch on generated scenes with Segmenter's mask transformer on the tokens, so that the decoder shrinks.

    python tools/train.py configs/msvit_mixedsegmenter_scenes.py

Runs on two CPU cores. Otherwise msvit_segmenter_scenes.py.

Not trained yet.
"""

_base_ = ['msvit_segmenter_scenes.py']
model = dict(backbone=dict(out_type='tokens'), decode_head=dict(type='MixedScaleMaskTransformerHead'))
