"""CamVid road scenes in SegNet's selection of 11 classes."""

import os.path as osp
from typing import ClassVar

from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid: 367 training and 101 validation frames of 480x360 pixels, 11 classes, 255 = unlabelled.

    Layout: ``images/{train,val}/*.jpg`` and ``annotations/{train,val}/*.png`` of the same names. Arguments are those of
    :class:`mmseg.datasets.BaseSegDataset`.

    Raises:
        FileNotFoundError: At construction, if a folder is missing or empty, or an image has no annotation.

    Source: Brostow et al., Pattern Recognition Letters 2009; Badrinarayanan et al. (SegNet), 2017.

    Example:
        >>> CamVidDataset.METAINFO['classes'][9]
        'pedestrian'
    """

    METAINFO: ClassVar[dict] = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [0, 0, 192],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
        small_classes=('pole', 'sign', 'pedestrian', 'bicyclist'),
    )

    def load_data_list(self) -> list[dict]:
        """Pair images with annotations, as the host does, and check that all are there."""
        image_folder, label_folder = self.data_prefix['img_path'], self.data_prefix['seg_map_path']
        for folder, suffix in ((image_folder, self.img_suffix), (label_folder, self.seg_map_suffix)):
            if not osp.isdir(folder):
                raise FileNotFoundError(
                    f'{type(self).__name__}: wanted *{suffix} files in {folder!r}, got no such folder; set data_root'
                )
        data_list = super().load_data_list()
        if not data_list:
            raise FileNotFoundError(
                f'{type(self).__name__}: wanted *{self.img_suffix} files in {image_folder!r}, got 0 of them'
            )
        missing = [data_info['seg_map_path'] for data_info in data_list if not osp.isfile(data_info['seg_map_path'])]
        if missing:
            raise FileNotFoundError(
                f'{type(self).__name__}: wanted a *{self.seg_map_suffix} file in {label_folder!r} for each of '
                f'{len(data_list)} images, got {len(data_list) - len(missing)}; the first missing is {missing[0]!r}'
            )
        return data_list
