"""What all models over a gated backbone share: the gate's part of the loss, and its choices on predictions."""

from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from ..ops.macs import count_macs
from .choices import RegionChoices, RouteChoices, choices_of


class GatedModel:
    """Mixin that stands before a host model with a backbone that has ``forward_gated``.

    A subclass defines ``_task_losses(features, data_samples)`` and ``_decode(features, *args)``. A head that works on
    tokens tells what it costs by ``count_macs(num_tokens)``. What differs between gated backbones is in
    :mod:`~msvit_mm.models.choices`.

    Args:
        *args: As for the host model.
        gate_loss: Config of a gate loss, or None for gates that do not learn. Over MSViT its ``grid_size`` defaults to
            the regions of the backbone's ``img_size``.
        warmup_gate: Config of the gate that decides during warm-up; by default random decisions of random ratio.
        **kwargs: As for the host model.

    Attributes:
        gate_phase: ``'warmup'``: a learnable gate rests and ``warmup_gate`` decides. ``'learn'``: the gate decides.
            Moved by GateScheduleHook.
    """

    def __init__(self, *args, gate_loss: dict | None = None, warmup_gate: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.token_head is not None:
            parts = [getattr(self, name, None) for name in ('neck', 'decode_head', 'head', 'auxiliary_head')]
            got = [type(part).__name__ for part in parts if part is not None]
            if len(got) > 1 or not hasattr(self.token_head, 'count_macs'):
                raise ValueError(
                    "out_type='tokens' needs one head that works on tokens, such as MixedScaleMaskTransformerHead, "
                    f'and no neck, got {", ".join(got)}'
                )
        self.gate_loss = None if gate_loss is None else self.choices.build_gate_loss(gate_loss)
        self.warmup_gate = self.choices.build_warmup_gate(warmup_gate)
        self.gate_phase = 'learn'
        self._decoder_macs: dict[tuple[int, ...], int] = {}

    @property
    def choices(self) -> RegionChoices | RouteChoices:
        """What the gate of this model's backbone chooses, and how that is counted and shown."""
        return choices_of(self.backbone)

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of the task and of the gate, and the gate's statistics, for images (B, 3, H, W)."""
        choices = self.choices
        warmup = self.gate_phase == 'warmup' and self.backbone.gate.learnable
        decisions = choices.warmup_decisions(self.warmup_gate, inputs) if warmup else None
        features, output = self.backbone.forward_gated(inputs, decisions)
        losses = self._task_losses(features, data_samples)
        gate_losses = self._gate_supervision(output, data_samples)
        if self.gate_loss is not None:
            gate_losses |= self.gate_loss(choices.loss_input(output, self._gate_crops(data_samples)))
        losses |= {name: 0 * value if warmup else value for name, value in gate_losses.items()}
        if warmup:  # DDP wants every parameter in every iteration
            losses['loss_gate_rest'] = 0 * choices.sum_of_values(output)
        losses |= choices.statistics(output)
        losses['num_tokens'] = output.num_tokens.float().mean()
        losses['gmacs'] = choices.count_macs(output, inputs.shape[-2:]).mean().float() / 1e9
        return losses

    def _gate_supervision(self, output: tuple, data_samples: list) -> dict[str, Tensor]:
        """Losses that tell the gate what to choose from the labels; none by default."""
        return {}

    def _gate_crops(self, data_samples: list) -> Tensor | None:
        """The further crops (``GateCrops`` in the pipeline) that only the gate loss sees, normalised."""
        crops = [crop for sample in data_samples if 'gate_crops' in sample for crop in sample.gate_crops]
        if not crops:
            return None
        return self.data_preprocessor(dict(inputs=crops, data_samples=[BaseDataElement() for _ in crops]))['inputs']

    def _costs(
        self, output: tuple, image_size: tuple[int, int], features: tuple[Tensor, ...], *args
    ) -> dict[str, Tensor]:
        """What a forward pass cost, each of shape (B,), additive over passes; ``args`` are those of ``_decode``.

        ``num_tokens``, ``backbone_gmacs`` with the gate, ``gmacs`` with neck and head, both in 1e9 multiply-adds; over
        routes ``reference_gmacs`` too, those of PVTv2.
        """
        macs = self.choices.count_macs(output, image_size)
        decoder_macs = self._count_decoder_macs(features, output.num_tokens, *args)
        costs = dict(num_tokens=output.num_tokens, backbone_gmacs=macs / 1e9, gmacs=(macs + decoder_macs) / 1e9)
        return costs | self.choices.further_costs(output)

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

    def _attach_choices(self, sample: BaseDataElement, maps: dict[str, Tensor], costs: dict[str, Tensor]) -> None:
        """Put the gate's maps, each of shape (..., rows, cols), and the costs, each a scalar, on a prediction."""
        for name, x in maps.items():
            sample.set_field(PixelData(data=x.reshape(-1, *x.shape[-2:])), name)
        for name, cost in costs.items():
            sample.set_field(cost.item(), name)
        sample.set_metainfo(self.choices.metainfo())
