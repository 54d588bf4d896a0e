"""A segmentor over a gated backbone: the gate loss in training, the gate's choices beside each prediction."""

from collections.abc import Callable
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.utils import add_prefix
from torch import Tensor, nn

from ..backbones import ChoiceMap, Choices, Costs, GateOutput
from ..backbones.base import Features, image_size
from ..losses import region_means, token_loss
from ..ops.tiling import Maps, as_maps, map_scales, per_scale
from .gated import GatedModel
from .memory import check_memory
from .static import StaticModel


@MODELS.register_module()
class GatedEncoderDecoder(GatedModel, EncoderDecoder):
    """mmseg's EncoderDecoder over a gated backbone.

    Training adds the gate loss and logs the gate's statistics, ``num_tokens`` and ``gmacs``. A prediction carries,
    beside mmseg's fields, the maps of the gate's choices as PixelData (``scale_map`` and ``gate_logits``
    (1, rows, cols), or ``routes_s4`` ... ``merges_s32``), what it cost
    (:meth:`~msvit_mm.models.gated.GatedModel._attach`), and the metainfo ``choice_maps``: kind and side of a cell in
    pixels of each map by name.

    Args:
        boundary_loss: Config of ``BoundaryGateLoss``, which supervises the gate by the label maps; none by default.

    Further arguments and attributes: those of ``EncoderDecoder`` and of :class:`~msvit_mm.models.gated.GatedModel`.
    """

    out_channels: int
    postprocess_result: Callable[..., list[Any]]
    _decode_head_forward_train: Callable[..., dict[str, Tensor]]
    _auxiliary_head_forward_train: Callable[..., dict[str, Tensor]]

    def __init__(self, *args, boundary_loss: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if boundary_loss and self.backbone.region_size is None:
            raise ValueError(f'boundary_loss supervises regions (MSViT), got {type(self.backbone).__name__}')
        self.boundary_loss: Any = boundary_loss and MODELS.build(boundary_loss)

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Segment images (B, 3, H, W); the gate's choices and the cost travel on the data samples.

        Raises:
            ImageMemoryError: If their class scores do not fit into memory.
        """
        size = image_size(inputs)
        whole = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
        metas = [whole] * len(inputs) if data_samples is None else [sample.metainfo for sample in data_samples]
        check_memory(inputs, metas, self.out_channels)
        seg_logits, maps, costs, num_tokens, decoder_macs = self.inference_gated(inputs, metas)
        data_samples = self.postprocess_result(seg_logits, data_samples)
        for i, (sample, meta) in enumerate(zip(data_samples, metas, strict=True)):
            own = {
                name: x._replace(data=_unpad_and_unflip(x.data[i : i + 1], x.cell, meta, size))
                for name, x in maps.items()
            }
            self._attach([sample], own, costs.of_image(i), num_tokens[i : i + 1], decoder_macs[i : i + 1])
        return data_samples

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits of :meth:`inference_gated` alone."""
        return self.inference_gated(inputs, batch_img_metas)[0]

    def inference_gated(
        self, inputs: Tensor, batch_img_metas: list[dict]
    ) -> tuple[Tensor, dict[str, ChoiceMap], Costs, Tensor, Tensor]:
        """Whole or slide inference (``test_cfg.mode``) of images (B, 3, H, W): the whole image is one window.

        Returns:
            Class scores (B, classes, H, W); the maps of the gate's choices by name, between 0 and 1 where sliding
            windows disagree; and summed over the windows costs, active tokens (B,) and multiply-adds of the decoder
            (B,).
        """
        size = image_size(inputs)
        seg_logits = inputs.new_zeros(len(inputs), self.out_channels, *size)
        visits = inputs.new_zeros(1, 1, *size)
        windows: list[tuple[int, int, int, int]] = self.windows(size)
        passes: list[Choices] = []
        decoder_macs: Tensor | int = 0
        for top, left, bottom, right in windows:
            window = inputs[:, :, top:bottom, left:right]
            metas = [{**meta, 'img_shape': window.shape[2:]} for meta in batch_img_metas]
            features, choices = self.backbone.forward_gated(window)
            logits = self._decode(features, metas)
            steps = getattr(choices, 'steps', None)
            seg_logits[:, :, top:bottom, left:right] += logits if steps is None else steps.freeze(logits)
            visits[:, :, top:bottom, left:right] += 1
            passes.append(choices)
            decoder_macs = decoder_macs + self._count_decoder_macs(features, choices.num_tokens, metas[:1])
        maps = {
            name: first._replace(data=_over_windows([x.maps()[name] for x in passes], windows, size))
            for name, first in passes[0].maps().items()
        }
        costs = reduce(Costs.plus, (choices.costs for choices in passes))
        num_tokens = reduce(torch.add, (choices.num_tokens for choices in passes))
        return seg_logits / visits, maps, costs, num_tokens, decoder_macs + torch.zeros_like(costs.total)

    def _task_losses(self, features: Features, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        if self.with_neck:
            features = self.neck(features)
        if self.teacher_loss is None:
            losses = self._decode_head_forward_train(features, data_samples)
        else:  # the same, with the scores at hand
            scores = self.decode_head(features)
            losses = add_prefix(self.decode_head.loss_by_feat(scores, data_samples), 'decode')
            losses |= self.teacher_loss(scores, inputs, self._class_weight(scores))
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(features, data_samples))
        return losses

    def _gate_supervision(self, choices: Choices, data_samples: list) -> dict[str, Tensor]:
        if self.boundary_loss is None:
            return {}
        labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
        gated = cast(GateOutput, choices)
        sides = gated.sides or (gated.region_size,)
        pairs = zip(per_scale(gated.gate_logits), sides, strict=True)
        losses = [self.boundary_loss(logits, labels, side) for logits, side in pairs]
        return {name: torch.stack([x[name] for x in losses]).mean() for name in losses[0]}

    def _token_losses(self, choices: Choices, data_samples: list) -> dict[str, Tensor]:
        steps, backbone = getattr(choices, 'steps', None), cast(Any, self.backbone)
        if steps is None or not steps.logits:
            return {}
        labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples]).long()
        words = dict(patch_size=backbone.patch_size, ignore_index=self.decode_head.ignore_index)
        losses = [token_loss(x.logits, x.token, labels, **words) for x in steps.logits]
        weight = backbone.exits.loss_weight
        return {f'loss_exit_{i}': weight * loss for i, loss in zip(backbone.exits.layers, losses, strict=True)}

    def _utilities(self, features: Features, choices: GateOutput, data_samples: list) -> tuple[Maps, Maps]:
        labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples]).long()
        counterfactual = choices.counterfactual
        assert counterfactual is not None
        counted, own, wins = labels != self.decode_head.ignore_index, self._pixel_losses(features, labels), []
        sides = choices.sides or (choices.region_size,)
        for i, (side, drawn) in enumerate(zip(sides, per_scale(counterfactual.drawn), strict=True)):
            swapped = self._pixel_losses(counterfactual.swap_scale(i, drawn), labels)
            wins.append(region_means(own, counted, side) - region_means(swapped, counted, side))
        labelled = [F.max_pool2d(counted[:, None].float(), side, ceil_mode=True)[:, 0] > 0 for side in sides]
        return as_maps(wins), map_scales(torch.logical_and, counterfactual.drawn, as_maps(labelled))

    def _pixel_losses(self, features: Features, labels: Tensor) -> Tensor:
        """Cross-entropy of each pixel, with the class weights of the task's loss, (B, H, W)."""
        if self.with_neck:
            features = self.neck(features)
        logits = F.interpolate(self.decode_head(features), labels.shape[1:], mode='bilinear', align_corners=False)
        weight, ignore_index = self._class_weight(logits), self.decode_head.ignore_index
        return F.cross_entropy(logits, labels, weight, ignore_index=ignore_index, reduction='none')

    def _class_weight(self, scores: Tensor) -> Tensor | None:
        """Class weights of the task's loss, of a head with several of its first."""
        loss = self.decode_head.loss_decode
        loss = next(iter(loss)) if isinstance(loss, nn.ModuleList) else loss
        weight = getattr(loss, 'class_weight', None)
        return None if weight is None else scores.new_tensor(weight)

    def _check_utilities(self) -> None:
        super()._check_utilities()
        self.check_scores('utility_loss')

    def _check_teacher(self) -> None:
        self.check_scores('teacher_loss')
        head = type(self.decode_head)
        if head.loss is not BaseDecodeHead.loss:
            raise ValueError(f'teacher_loss: wanted a head with the loss of BaseDecodeHead, got {head.__name__}')

    def check_scores(self, what: str) -> None:
        """Check that the head scores every class, so that a softmax tells how probable each is.

        Args:
            what: Who asks, for the error.

        Raises:
            ValueError: If one score has to tell two classes apart.
        """
        if self.decode_head.out_channels == 1:
            raise ValueError(f'{what}: wanted a head with a score for each class, got one of out_channels=1')

    def _decode(self, features: Features, metas: list[dict]) -> Tensor:
        if self.with_neck:
            features = self.neck(features)
        return self.decode_head.predict(features, metas, self.test_cfg)

    def static(self, image_size: tuple[int, int], token_budget: float | None = None) -> StaticModel:
        return StaticModel(self, image_size, token_budget, [dict(img_shape=tuple(image_size))])

    def windows(self, image_size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """(top, left, bottom, right) of each window; sliding ones as in mmseg, moved inside the image at its end."""
        height, width = image_size
        mode = self.test_cfg.get('mode', 'whole')
        if mode == 'whole':
            return [(0, 0, height, width)]
        if mode != 'slide':
            raise ValueError(f"test_cfg.mode must be 'whole' or 'slide', got {mode!r}")
        (crop_h, crop_w), (stride_h, stride_w) = crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        if not (0 < stride_h <= crop_h and 0 < stride_w <= crop_w):
            wanted = f'a stride of 1 to crop_size {tuple(crop)}, beyond which windows leave gaps'
            raise ValueError(f'test_cfg.stride: wanted {wanted}, got {tuple(stride)}')
        tops = [min(y, max(height - crop_h, 0)) for y in range(0, max(height - crop_h, 0) + stride_h, stride_h)]
        lefts = [min(x, max(width - crop_w, 0)) for x in range(0, max(width - crop_w, 0) + stride_w, stride_w)]
        return [
            (top, left, min(top + crop_h, height), min(left + crop_w, width))
            for top in dict.fromkeys(tops)
            for left in dict.fromkeys(lefts)
        ]


def _unpad_and_unflip(x: Tensor, cell: int, meta: dict, size: tuple[int, int]) -> Tensor:
    """A map of cells as the unpadded, unflipped image has it, (..., rows, cols) -> (..., rows', cols')."""
    _, right, _, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    rows, cols = (-(-side // cell) for side in (size[0] - bottom, size[1] - right))
    x = x[..., :rows, :cols]
    if meta.get('flip'):
        x = x.flip(-1 if meta['flip_direction'] == 'horizontal' else -2)
    return x


def _over_windows(maps: list[ChoiceMap], windows: list[tuple[int, int, int, int]], size: tuple[int, int]) -> Tensor:
    """One map over the cells of an image of ``size`` from those of its windows: their mean; the last one's numbers."""
    (first, cell, kind), data = maps[0], [x.data for x in maps]
    if len(maps) == 1:
        return first
    if kind in ('groups', 'layers'):
        return _last_numbers(data, windows, cell, size, distinct=kind == 'groups')
    sums = first.new_zeros(*first.shape[:-2], *size, dtype=torch.float if not first.is_floating_point() else None)
    visits = sums.new_zeros(size)
    for x, (top, left, bottom, right) in zip(data, windows, strict=True):
        sums[..., top:bottom, left:right] += _to_pixels(x, cell)[..., : bottom - top, : right - left]
        visits[top:bottom, left:right] += 1
    return F.avg_pool2d(sums / visits, cell, ceil_mode=True, count_include_pad=False)


def _last_numbers(
    maps: list[Tensor], windows: list[tuple[int, int, int, int]], cell: int, size: tuple[int, int], distinct: bool
) -> Tensor:
    """Numbers in windows, (B, rows, cols) each, as those of the image; ``distinct``: no two windows share one."""
    numbers, begin = maps[0].new_zeros(len(maps[0]), *size), 0
    for x, (top, left, bottom, right) in zip(maps, windows, strict=True):
        numbers[:, top:bottom, left:right] = begin + _to_pixels(x, cell)[:, : bottom - top, : right - left]
        begin += x[0].numel() if distinct else 0
    return numbers[:, ::cell, ::cell]


def _to_pixels(cells: Tensor, cell: int) -> Tensor:
    return cells.repeat_interleave(cell, dim=-2).repeat_interleave(cell, dim=-1)


@MODELS.register_module()
class GatedSegTTAModel(SegTTAModel):
    """mmseg's test-time augmentation; tokens and multiply-adds are the sum over the augmented views.

    The maps of the gate's choices are those of the first view; the cost ratio is that of all views.
    """

    def merge_preds(self, data_samples_list: list[list]) -> list:
        merged = super().merge_preds(data_samples_list)
        for sample, views in zip(merged, data_samples_list, strict=True):
            sample.set_metainfo(views[0].metainfo)  # mmseg leaves those of the last view
            for name, value in views[0].items():
                if isinstance(value, int | float):
                    sample.set_field(sum(view.get(name) for view in views), name)
                elif not name.endswith(('sem_seg', 'seg_logits')):  # those mmseg has merged
                    sample.set_field(value, name)
            sample.set_field(sample.backbone_gmacs / sample.reference_gmacs, 'cost_ratio')
        return merged
