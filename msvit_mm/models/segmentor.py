"""A segmentor over a gated backbone: the gate loss in training, the gate's choices beside each prediction."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from torch import Tensor

from .gated import COSTS, GatedModel
from .msvit import GateOutput


class GatedInference(NamedTuple):
    """Logits of a batch and what they cost.

    Attributes:
        seg_logits: Shape (B, classes, H, W).
        scale_map: 1 = coarse, 0 = fine; between them where sliding windows disagree, shape (B, rows, cols).
        gate_logits: Mean over the windows, shape (B, rows, cols).
        num_tokens: Active patch tokens, summed over the windows, shape (B,).
        backbone_gmacs: Multiply-adds of gate and backbone in 1e9, summed over the windows, shape (B,).
        gmacs: The same with neck and decode head, shape (B,).
    """

    seg_logits: Tensor
    scale_map: Tensor
    gate_logits: Tensor
    num_tokens: Tensor
    backbone_gmacs: Tensor
    gmacs: Tensor


@MODELS.register_module()
class GatedEncoderDecoder(GatedModel, EncoderDecoder):
    """mmseg's EncoderDecoder over a gated backbone.

    Training adds the gate loss and logs ``coarse_ratio``, ``num_tokens`` and ``gmacs``. A prediction carries, beside
    mmseg's fields, ``scale_map`` and ``gate_logits`` (PixelData, (1, rows, cols)), ``num_tokens``, ``backbone_gmacs``,
    ``gmacs`` and the metainfo ``coarse_patch_size``.

    Args:
        boundary_loss: Config of ``BoundaryGateLoss``, which supervises the gate by the label maps; none by default.

    Further arguments and attributes: those of ``EncoderDecoder`` and of :class:`~msvit_mm.models.gated.GatedModel`.
    """

    def __init__(self, *args, boundary_loss: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.boundary_loss = boundary_loss and MODELS.build(boundary_loss)

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Segment images (B, 3, H, W); the gate's choices and the cost travel on the data samples."""
        size = tuple(inputs.shape[-2:])
        whole = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
        metas = [whole] * len(inputs) if data_samples is None else [sample.metainfo for sample in data_samples]
        result = self.inference_gated(inputs, metas)
        data_samples = self.postprocess_result(result.seg_logits, data_samples)
        for i, (sample, meta) in enumerate(zip(data_samples, metas, strict=True)):
            maps = (self._unpad_and_unflip(x[i], meta, size) for x in (result.scale_map, result.gate_logits))
            self._attach_choices(sample, *maps, {name: getattr(result, name)[i] for name in COSTS})
        return data_samples

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits of :meth:`inference_gated` alone."""
        return self.inference_gated(inputs, batch_img_metas).seg_logits

    def inference_gated(self, inputs: Tensor, batch_img_metas: list[dict]) -> GatedInference:
        """Whole or slide inference (``test_cfg.mode``) of images (B, 3, H, W): the whole image is one window."""
        batch, _, height, width = inputs.shape
        size = self.backbone.coarse_patch_size
        seg_logits = inputs.new_zeros(batch, self.out_channels, height, width)
        gate_sums = inputs.new_zeros(batch, 2, height, width)
        visits = inputs.new_zeros(1, 1, height, width)
        num_tokens = torch.zeros(batch, dtype=torch.long, device=inputs.device)
        backbone_macs, macs = (torch.zeros(batch, dtype=torch.float64, device=inputs.device) for _ in range(2))
        for top, left, bottom, right in self._windows(height, width):
            window = inputs[:, :, top:bottom, left:right]
            metas = [{**meta, 'img_shape': window.shape[2:]} for meta in batch_img_metas]
            features, gate = self.backbone.forward_gated(window)
            seg_logits[:, :, top:bottom, left:right] += self._decode(features, metas)
            per_region = torch.stack([gate.decisions, gate.gate_logits], dim=1)
            per_pixel = per_region.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)
            gate_sums[:, :, top:bottom, left:right] += per_pixel[:, :, : bottom - top, : right - left]
            visits[:, :, top:bottom, left:right] += 1
            window_macs = self.backbone.count_macs(gate.num_tokens, window.shape[2:])
            num_tokens += gate.num_tokens
            backbone_macs += window_macs
            macs += window_macs + self._count_decoder_macs(features, gate.num_tokens, metas[:1])
        maps = F.avg_pool2d(gate_sums / visits, size, ceil_mode=True, count_include_pad=False)
        return GatedInference(seg_logits / visits, maps[:, 0], maps[:, 1], num_tokens, backbone_macs / 1e9, macs / 1e9)

    def _task_losses(self, features: tuple[Tensor, ...], data_samples: list) -> dict[str, Tensor]:
        if self.with_neck:
            features = self.neck(features)
        losses = self._decode_head_forward_train(features, data_samples)
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(features, data_samples))
        return losses

    def _gate_supervision(self, gate: GateOutput, data_samples: list) -> dict[str, Tensor]:
        if self.boundary_loss is None:
            return {}
        labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
        return self.boundary_loss(gate.gate_logits, labels, self.backbone.coarse_patch_size)

    def _decode(self, features: tuple[Tensor, ...], metas: list[dict]) -> Tensor:
        if self.with_neck:
            features = self.neck(features)
        return self.decode_head.predict(features, metas, self.test_cfg)

    def _windows(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """(top, left, bottom, right) of each window; sliding ones as in mmseg, moved inside the image at its end."""
        mode = self.test_cfg.get('mode', 'whole')
        if mode == 'whole':
            return [(0, 0, height, width)]
        if mode != 'slide':
            raise ValueError(f"test_cfg.mode must be 'whole' or 'slide', got {mode!r}")
        (crop_h, crop_w), (stride_h, stride_w) = self.test_cfg.crop_size, self.test_cfg.stride
        tops = [min(y, max(height - crop_h, 0)) for y in range(0, max(height - crop_h, 0) + stride_h, stride_h)]
        lefts = [min(x, max(width - crop_w, 0)) for x in range(0, max(width - crop_w, 0) + stride_w, stride_w)]
        return [
            (top, left, min(top + crop_h, height), min(left + crop_w, width))
            for top in dict.fromkeys(tops)
            for left in dict.fromkeys(lefts)
        ]

    def _unpad_and_unflip(self, region_map: Tensor, meta: dict, size: tuple[int, int]) -> Tensor:
        """A map over the regions as the unpadded, unflipped image has it, (rows, cols) -> (1, rows', cols')."""
        _, right, _, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
        rows, cols = (-(-side // self.backbone.coarse_patch_size) for side in (size[0] - bottom, size[1] - right))
        region_map = region_map[None, :rows, :cols]
        if meta.get('flip'):
            region_map = region_map.flip(2 if meta['flip_direction'] == 'horizontal' else 1)
        return region_map


@MODELS.register_module()
class GatedSegTTAModel(SegTTAModel):
    """mmseg's test-time augmentation; tokens and multiply-adds are the sum over the augmented views.

    ``scale_map`` and ``gate_logits`` are those of the first view.
    """

    def merge_preds(self, data_samples_list: list[list]) -> list:
        merged = super().merge_preds(data_samples_list)
        for sample, views in zip(merged, data_samples_list, strict=True):
            first = views[0]
            sample.set_metainfo(first.metainfo)  # mmseg leaves those of the last view
            sample.scale_map, sample.gate_logits = first.scale_map, first.gate_logits
            totals = {n: sum(view.get(n) for view in views) for n in COSTS}
            for name, total in totals.items():
                sample.set_field(total, name)
        return merged
