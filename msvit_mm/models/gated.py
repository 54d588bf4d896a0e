"""What all models over a gated backbone share: the gate's part of the loss, and its choices on predictions."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from ..backbones import ChoiceMap, Choices, Costs, GatedBackbone, GateOutput
from ..backbones.base import Features, check_backbone
from ..gates import node_sides
from ..ops.macs import count_macs
from ..ops.scales import by_scale, for_each_scale
from ..ops.tiling import Maps, map_scales, per_scale

if TYPE_CHECKING:
    Module = nn.Module  # of which every host's model is one
else:
    Module = object


@contextmanager
def in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, so that a look ahead moves no statistics and drops nothing."""
    states = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.train(False)
    try:
        yield
    finally:
        for part, training in states:
            part.training = training


class GatedModel(Module):
    """Mixin that stands before a host model with a gated backbone.

    A subclass defines ``_task_losses(features, inputs, data_samples)`` and ``_decode(features, *args)``. A head that
    works on tokens tells what it costs by ``count_macs(num_tokens, layout)``.

    Args:
        *args: As for the host model.
        gate_loss: Config of a gate loss, or None for gates that do not learn. Over MSViT its ``grid_size`` defaults to
            the regions of the backbone's ``img_size``.
        utility_loss: Config of ``UtilityGateLoss``, which supervises the gate by what the other scale of a region would
            have cost the task; none by default. It needs counterfactual tokens.
        teacher_loss: Config of ``TeacherLoss``, which supervises the class scores by those of a trained network; none
            by default.
        warmup_gate: Config of the gate that decides during warm-up; by default the backbone's, random decisions of
            random ratio.
        **kwargs: As for the host model.

    Attributes:
        gate_phase: ``'warmup'``: a learnable gate rests and ``warmup_gate`` decides. ``'learn'``: the gate decides.
            Moved by GateScheduleHook.

    Raises:
        ValueError: If the backbone has no gate, or it hands tokens to a head that takes maps.
    """

    backbone: GatedBackbone
    data_preprocessor: Any  # this and what follows are the host's, which is not typed
    neck: Any
    decode_head: Any
    head: Any
    with_neck: bool
    test_cfg: Any
    cfg: Any
    dataset_meta: Any
    test_step: Callable[..., list[Any]]
    predict: Callable[..., list[Any]]
    _task_losses: Callable[..., dict[str, Tensor]]
    _decode: Callable[..., Tensor]
    gate_loss: Any
    utility_loss: Any
    teacher_loss: Any

    def __init__(
        self,
        *args: Any,
        gate_loss: dict | None = None,
        utility_loss: dict | None = None,
        teacher_loss: dict | None = None,
        warmup_gate: dict | None = None,
        **kwargs: Any,
    ) -> None:
        config = kwargs.get('backbone', args[0] if args else None)
        if isinstance(config, Mapping):
            check_backbone(config, type(self).__name__)
        super().__init__(*args, **kwargs)
        if not isinstance(self.backbone, GatedBackbone):
            got = type(self.backbone).__name__
            raise ValueError(f'{type(self).__name__}: wanted a gated backbone such as MSViT, got {got}')
        if self.backbone.out_type == 'tokens':
            parts = [getattr(self, name, None) for name in ('neck', 'decode_head', 'head', 'auxiliary_head')]
            got = [type(part).__name__ for part in parts if part is not None]
            if len(got) > 1 or not hasattr(self.token_head, 'count_macs'):
                raise ValueError(
                    "out_type='tokens' needs one head that works on tokens, such as MixedScaleMaskTransformerHead, "
                    f'and no neck, got {", ".join(got)}'
                )
        self._check_token_classes()
        self.gate_loss = None if gate_loss is None else self.backbone.build_gate_loss(gate_loss)
        self.warmup_gate = self.backbone.build_gate(warmup_gate or self.backbone.default_warmup_gate)
        self.utility_loss = None
        if utility_loss is not None:
            if self.backbone.region_size is None:
                raise ValueError(f'utility_loss supervises regions (MSViT), got {type(self.backbone).__name__}')
            self._check_utilities()
            sides = node_sides(self.backbone.metainfo()['patch_sizes'])
            self.utility_loss = for_each_scale(lambda _: MODELS.build(utility_loss), sides)
        self.teacher_loss = None
        if teacher_loss is not None:
            self._check_teacher()
            self.teacher_loss = MODELS.build(teacher_loss)
            if isinstance(own := kwargs.get('data_preprocessor'), Mapping):
                self.teacher_loss.check_normalisation(own)
        self.gate_phase = 'learn'
        self._decoder_macs: dict[tuple[int, ...], int] = {}

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of the task and of the gate, and the gate's statistics, for images (B, 3, H, W)."""
        backbone = self.backbone
        resting = self.gate_phase == 'warmup' and backbone.gate.learnable
        decisions = backbone.draw_decisions(self.warmup_gate, inputs) if resting else None
        features, choices = backbone.forward_gated(inputs, decisions)
        losses = self._task_losses(features, inputs, data_samples) | self._token_losses(choices, data_samples)
        gate_losses = self._gate_losses(features, choices, data_samples, resting)
        losses |= {name: 0 * value if resting else value for name, value in gate_losses.items()}
        if resting:  # DDP wants every parameter in every iteration
            losses['loss_gate_rest'] = choices.zero()
        losses |= choices.statistics()
        losses['num_tokens'] = choices.num_tokens.float().mean()
        losses['gmacs'] = choices.costs.total.detach().mean().float() / 1e9
        return losses

    def _check_token_classes(self) -> None:
        """Check that there are labels for what steps between the backbone's layers learn from label maps."""
        wanted, own = self.backbone.token_classes, getattr(getattr(self, 'decode_head', None), 'num_classes', None)
        if wanted is not None and wanted != own:
            got = f'{type(self).__name__}, which has no label maps' if own is None else f'one of {own} classes'
            raise ValueError(f'exits: wanted a segmentor of {wanted} classes, whose labels teach them, got {got}')

    def _gate_losses(
        self, features: Features, choices: Choices, data_samples: list, resting: bool
    ) -> dict[str, Tensor]:
        losses = self._gate_supervision(choices, data_samples)
        if self.utility_loss is not None and self.backbone.gate.learnable and not resting:
            losses |= self._utility_losses(features, cast(GateOutput, choices), data_samples)  # of regions, as checked
        if self.gate_loss is not None:
            stated, crops = choices.loss_input(), self._gate_crops(data_samples)
            if crops is not None:
                stated = map_scales(lambda *x: torch.cat(x), stated, self.backbone.gate_statements(crops))
            losses |= self.gate_loss(stated)
        return losses

    def _utility_losses(self, features: Features, choices: GateOutput, data_samples: list) -> dict[str, Tensor]:
        losses = by_scale(self.utility_loss)
        due = [loss.is_due() for loss in losses]  # each counts its steps
        if not all(due):
            return {}
        modules = [part for name in ('neck', 'decode_head', 'head') if (part := getattr(self, name, None)) is not None]
        with torch.no_grad(), in_evaluation(*modules):
            wins, drawn = self._utilities(features, choices, data_samples)
        utilities = map_scales(lambda stays, won: (2 * stays - 1) * won, choices.decisions, wins)
        words = zip(*map(per_scale, (choices.gate_logits, utilities, drawn)), strict=True)
        parts = [loss(*own) for loss, own in zip(losses, words, strict=True)]
        return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}

    def _check_utilities(self) -> None:
        """Check that both scales are computed, and that the task's loss can tell what they are worth."""
        backbone: Any = self.backbone
        if backbone.train_execution == 'packed' or backbone.gate_gradient == 'mask':
            raise ValueError(
                "utility_loss needs regions at both scales: wanted train_execution='counterfactual', 'masked' or "
                f"'trimmed' and gate_gradient='output' or 'both', got {backbone.train_execution!r} and "
                f'{backbone.gate_gradient!r}'
            )
        if type(self)._utilities is GatedModel._utilities:
            raise ValueError(f'utility_loss: wanted a segmentor or a classifier, got {type(self).__name__}')

    def _check_teacher(self) -> None:
        """Check that the model has class scores for a teacher to compare."""
        raise ValueError(f'teacher_loss: wanted a segmentor or a classifier, got {type(self).__name__}')

    def _utilities(self, features: Features, choices: GateOutput, data_samples: list) -> tuple[Maps, Maps]:
        """What a node's task loss falls by when its decision is swapped, like decisions, and where that is known.

        Nodes are swapped one scale at a time.
        """
        raise NotImplementedError

    def _token_losses(self, choices: Choices, data_samples: list) -> dict[str, Tensor]:
        """Losses that label maps teach steps between the backbone's layers; none by default."""
        return {}

    def _gate_supervision(self, choices: Choices, data_samples: list) -> dict[str, Tensor]:
        """Losses that tell the gate what to choose from the labels; none by default."""
        return {}

    def _gate_crops(self, data_samples: list) -> Tensor | None:
        """The further crops (``GateCrops`` in the pipeline) that only the gate loss sees, normalised."""
        crops = [crop for sample in data_samples if 'gate_crops' in sample for crop in sample.gate_crops]
        if not crops:
            return None
        return self.data_preprocessor(dict(inputs=crops, data_samples=[BaseDataElement() for _ in crops]))['inputs']

    @property
    def token_head(self) -> Any:
        """The head, if the backbone hands it tokens and no feature maps."""
        if self.backbone.out_type != 'tokens':
            return None
        return getattr(self, 'decode_head', getattr(self, 'head', None))

    def windows(self, image_size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """(top, left, bottom, right) of what the backbone sees at once of an image of this size: the whole of it."""
        return [(0, 0, *image_size)]

    def window_sizes(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """(height, width) of the windows over an image of this size."""
        return [(bottom - top, right - left) for top, left, bottom, right in self.windows(image_size)]

    def static(self, image_size: tuple[int, int], token_budget: float | None = None) -> nn.Module:
        """This model for images of one size and one budget, as :meth:`GatedBackbone.static`: what can be exported.

        Raises:
            ValueError: If there is none.
        """
        raise ValueError(f'export: wanted a segmentor or a classifier, got {type(self).__name__}')

    def _count_decoder_macs(self, features: Features, num_tokens: Tensor, *args: Any) -> Tensor | int:
        """Multiply-adds of ``_decode(features, *args)`` for each image; for maps they are counted once per size."""
        if self.token_head is not None:
            tokens = features[getattr(self.token_head, 'in_index', -1)]
            layout = tokens.layout
            if tokens.place is not None:  # what has merged is one token in the head, too
                lengths = torch.tensor(tokens.distinct()[1], device=num_tokens.device)
                num_tokens = lengths - layout.num_extra_tokens
            return self.token_head.count_macs(num_tokens, layout)
        size = tuple(features[0].shape[2:])
        if size not in self._decoder_macs:
            self._decoder_macs[size] = count_macs(self._decode, tuple(x[:1] for x in features), *args)
        return self._decoder_macs[size]

    def _attach(
        self,
        samples: list[BaseDataElement],
        maps: Mapping[str, ChoiceMap],
        costs: Costs,
        num_tokens: Tensor,
        decoder_macs: Tensor | int | None = None,
    ) -> None:
        """Put the choices on predictions: maps as PixelData, and what each image cost in 1e9 multiply-adds.

        ``num_tokens``; ``backbone_gmacs``, of it ``gate_gmacs``, ``embedding_gmacs`` and ``encoder_gmacs``; with neck
        and head ``gmacs``; ``reference_gmacs``, those of the dense backbone, and ``cost_ratio`` relative to them.
        """
        detached: dict[str, Any] = {k: x.detach() if isinstance(x, Tensor) else x for k, x in costs._asdict().items()}
        costs = Costs(**detached)
        numbers = dict(num_tokens=num_tokens, cost_ratio=costs.cost_ratio, backbone_gmacs=costs.total / 1e9)
        numbers |= {f'{name}_gmacs': getattr(costs, name) / 1e9 for name in ('gate', 'embedding', 'encoder')}
        if decoder_macs is not None:
            numbers['gmacs'] = (costs.total + decoder_macs) / 1e9
        kinds = {name: (x.kind, x.cell) for name, x in maps.items()}
        for i, sample in enumerate(samples):
            for name, (x, _, _) in maps.items():
                sample.set_field(PixelData(data=x[i].reshape(-1, *x.shape[-2:])), name)
            for name, values in numbers.items():
                sample.set_field(values[i].item(), name)
            sample.set_field(costs.reference / 1e9, 'reference_gmacs')
            sample.set_metainfo(self.backbone.metainfo() | dict(choice_maps=kinds))
