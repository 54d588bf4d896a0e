"""Write generated scenes as a data set in COCO's format, to train detectors on: images, boxes and masks of the shapes.

python tools/scenes_to_coco.py scenes_coco --num-images 2000 200

The layout is COCO's: train2017, val2017, annotations/instances_train2017.json and instances_val2017.json.
"""

from msvit_cli import run

if __name__ == '__main__':
    run('scenes_to_coco')
