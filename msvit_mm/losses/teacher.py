"""Supervision of a model by a trained network's class probabilities."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, PretrainedInit, revert_sync_batchnorm
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..ops.checks import check_in

NORMALISATION = ('mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')


@MODELS.register_module()
class TeacherLoss(BaseModule):
    r"""Cross-entropy to the class probabilities of a trained network, which sees the same images and stays as it is.

    With the scores :math:`s` of the model, the teacher's probabilities :math:`p` and the class weights :math:`c` of the
    task's loss, by which pixels of rare classes count for more:

    .. math:: L = - w \, \tau^2 \, \mathrm{mean} \, \Big(\sum_k c_k p_k\Big)
        \sum_k p_k \log \mathrm{softmax}_k(s / \tau), \qquad p = \mathrm{softmax}(t / \tau)

    Whatever the weights, it is least where :math:`s` has these probabilities.

    The teacher is built and loaded when a training begins. It is no part of the model: checkpoints do not hold it, and
    predictions do not need it.

    Args:
        teacher: Config of a segmentor or a classifier of the same classes, with ``init_cfg=dict(type='Pretrained',
            checkpoint=...)``.
        weight: :math:`w`. A schedule may move this attribute.
        temperature: :math:`\tau`.

    Raises:
        ValueError: If the temperature is not above 0, or the teacher's config names no weights of the whole network.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
    """

    def __init__(self, teacher: dict[str, Any], weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        check_in('(0, inf)', temperature=temperature)
        check_in('[0, inf)', weight=weight)
        init_cfg = teacher.get('init_cfg')
        if not _is_pretrained(init_cfg):
            raise ValueError(
                "teacher: wanted a trained network, init_cfg=dict(type='Pretrained', checkpoint=...) beside its type, "
                f'got init_cfg={init_cfg}'
            )
        self.config = teacher
        self.weight = weight
        self.temperature = temperature
        self._network: tuple[nn.Module, ...] = ()  # in a tuple it is nobody's submodule

    def check_normalisation(self, preprocessor: Mapping[str, Any]) -> None:
        """Check that the teacher expects images normalised as those of the model are.

        Raises:
            ValueError: If it has a preprocessor and that is another.
        """
        own = self.config.get('data_preprocessor') or preprocessor
        wanted, got = ({key: x[key] for key in NORMALISATION if x.get(key)} for x in (preprocessor, own))
        if wanted != got:
            raise ValueError(f"teacher: wanted images normalised as the model's are, by {wanted}, got {got}")

    def init_weights(self) -> None:
        """Build the teacher and load its weights."""
        with torch.random.fork_rng(devices=[]):  # a training draws what it would draw without a teacher
            network = revert_sync_batchnorm(MODELS.build(copy.deepcopy(self.config)))  # hosts write into their config
            network.init_weights()
        self._network = (network.eval().requires_grad_(False),)

    @torch.no_grad()
    def scores(self, images: Tensor) -> Tensor:
        """The teacher's class scores of normalised images (B, 3, H, W), as its head returns them."""
        if not self._network:
            self.init_weights()
        (network,) = self._network
        return network.to(images.device)(images, None, mode='tensor')

    def forward(self, scores: Tensor, images: Tensor, class_weight: Tensor | None = None) -> dict[str, Tensor]:
        """Compare the scores of a model with those of the teacher.

        Args:
            scores: Shape (B, classes) or (B, classes, h, w), to whose size those of the teacher are resized.
            images: Shape (B, 3, H, W), normalised.
            class_weight: Shape (classes,).

        Raises:
            ValueError: If the teacher has other classes.
        """
        taught = self.scores(images)
        if taught.ndim != scores.ndim or taught.shape[1] != scores.shape[1]:
            raise ValueError(f'teacher: wanted scores like those of the model, {_form(scores)}, got {_form(taught)}')
        if scores.ndim == 4:
            taught = F.interpolate(taught, scores.shape[2:], mode='bilinear', align_corners=False)
        probabilities = (taught.float() / self.temperature).softmax(1)
        loss = F.cross_entropy(scores.float() / self.temperature, probabilities, reduction='none')
        if class_weight is not None:
            loss = loss * torch.einsum('bk...,k->b...', probabilities, class_weight.float())
        return {'loss_teacher': self.weight * self.temperature**2 * loss.mean()}


def _is_pretrained(init_cfg: Any) -> bool:
    kind = init_cfg.get('type') if isinstance(init_cfg, Mapping) else None
    kind = WEIGHT_INITIALIZERS.get(kind) if isinstance(kind, str) else kind  # a class in pure-Python configs
    return isinstance(kind, type) and issubclass(kind, PretrainedInit)


def _form(scores: Tensor) -> str:
    return f'{"maps" if scores.ndim == 4 else "rows"} of {scores.shape[1]} classes'
