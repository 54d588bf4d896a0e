"""MSViT on generated scenes under the paper's adaptive trimming in training.

    python tools/train.py configs/studies/losses/trimmed_upernet_scenes.py

Runs on two CPU cores. Otherwise msvit_upernet_scenes.py. Each batch is cut to the most active tokens of any of its
images: less work than all tokens, and the gate hears nothing of the tokens that are cut off.

Not trained yet.
"""

_base_ = ['../../msvit_upernet_scenes.py']
model = dict(backbone=dict(train_execution='trimmed'))
