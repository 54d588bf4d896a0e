"""What all models over a gated backbone share: the gate's part of the loss, and its choices on predictions."""

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from ..ops.gating import hard_decisions, relaxed_gate_sample
from ..ops.macs import count_macs
from .gates import build_gate

COSTS = ('num_tokens', 'backbone_gmacs', 'gmacs')


class GatedModel:
    """Mixin that stands before a host model with a backbone that has ``forward_gated``.

    A subclass defines ``_task_losses(features, data_samples)`` and ``_decode(features, *args)``. A head that works on
    tokens tells what it costs by ``count_macs(num_tokens)``.

    Args:
        *args: As for the host model.
        gate_loss: Config of a gate loss, or None for gates that do not learn. Its ``grid_size`` defaults to the regions
            of the backbone's ``img_size``.
        warmup_gate: Config of the gate that decides during warm-up; by default random decisions of random ratio.
        **kwargs: As for the host model.

    Attributes:
        gate_phase: ``'warmup'``: a learnable gate rests and ``warmup_gate`` decides. ``'learn'``: the gate decides.
            Moved by GateScheduleHook.
    """

    def __init__(self, *args, gate_loss: dict | None = None, warmup_gate: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.token_head is not None and not hasattr(self.token_head, 'count_macs'):
            head = type(self.token_head).__name__
            raise ValueError(
                "out_type='tokens' needs a head that works on tokens, such as MixedScaleMaskTransformerHead, "
                f'got {head}'
            )
        self.gate_loss = None
        if gate_loss is not None:
            self.gate_loss = MODELS.build({'grid_size': self.backbone.grid_size, **gate_loss})
        warmup_gate = warmup_gate or dict(type='RandomGate', coarse_ratio=(0.0, 1.0), extremes=0.25)
        self.warmup_gate = build_gate(warmup_gate, self.backbone.coarse_patch_size)
        self.gate_phase = 'learn'
        self._decoder_macs: dict[tuple[int, ...], int] = {}

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of the task and of the gate, and the gate's statistics, for images (B, 3, H, W)."""
        warmup = self.gate_phase == 'warmup' and self.backbone.gate.learnable
        decisions = hard_decisions(self.warmup_gate(inputs).sigmoid()) if warmup else None
        features, gate = self.backbone.forward_gated(inputs, decisions)
        losses = self._task_losses(features, data_samples)
        gate_losses = self._gate_supervision(gate, data_samples)
        if self.gate_loss is not None:
            gate_values = torch.cat([gate.gate_values, *self._values_of_gate_crops(data_samples)])
            gate_losses |= self.gate_loss(gate_values)
        losses |= {name: 0 * value if warmup else value for name, value in gate_losses.items()}
        if warmup:
            losses['loss_gate_rest'] = 0 * gate.gate_values.sum()  # DDP wants every parameter in every iteration
        coarse_ratios = hard_decisions(gate.gate_values).mean((1, 2))
        losses['coarse_ratio'] = coarse_ratios.mean()
        losses['coarse_ratio_std'] = coarse_ratios.std(correction=0)
        losses['num_tokens'] = gate.num_tokens.float().mean()
        losses['gmacs'] = self.backbone.count_macs(gate.num_tokens, inputs.shape[-2:]).mean().float() / 1e9
        return losses

    def _gate_supervision(self, gate: tuple, data_samples: list) -> dict[str, Tensor]:
        """Losses that tell the gate what to choose from the labels; none by default."""
        return {}

    def _values_of_gate_crops(self, data_samples: list) -> list[Tensor]:
        """Gate values of the further crops (``GateCrops`` in the pipeline) that only the gate loss sees."""
        crops = [crop for sample in data_samples if 'gate_crops' in sample for crop in sample.gate_crops]
        if not crops:
            return []
        batch = dict(inputs=crops, data_samples=[BaseDataElement() for _ in crops])
        images = self.data_preprocessor(batch)['inputs']
        noise = self.backbone.gate.learnable
        return [relaxed_gate_sample(self.backbone.gate(images), self.backbone.gate_temperature, noise)]

    @property
    def token_head(self) -> nn.Module | None:
        """The head, if the backbone hands it tokens and no feature maps."""
        if getattr(self.backbone, 'out_type', None) != 'tokens':
            return None
        return self.decode_head if hasattr(self, 'decode_head') else self.head

    def _count_decoder_macs(self, features: tuple[Tensor, ...], num_tokens: Tensor, *args) -> Tensor | int:
        """Multiply-adds of ``_decode`` for each image; for feature maps they are counted once per size."""
        if self.token_head is not None:
            return self.token_head.count_macs(num_tokens)
        size = tuple(features[0].shape[2:])
        if size not in self._decoder_macs:
            self._decoder_macs[size] = count_macs(self._decode, tuple(x[:1] for x in features), *args)
        return self._decoder_macs[size]

    def _attach_choices(
        self, sample: BaseDataElement, scale_map: Tensor, gate_logits: Tensor, costs: dict[str, Tensor]
    ) -> None:
        """Put the gate's choices, maps of shape (1, rows, cols), and a scalar for each of ``COSTS`` on a prediction."""
        sample.scale_map = PixelData(data=scale_map)
        sample.gate_logits = PixelData(data=gate_logits)
        for name, cost in costs.items():
            sample.set_field(cost.item(), name)
        sample.set_metainfo(dict(coarse_patch_size=self.backbone.coarse_patch_size))
