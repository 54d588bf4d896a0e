"""What a gated backbone is: the first file to read.

Images go in, feature maps come out, and beside them travel the *choices* of the gate, as a value: to the gate loss in
training, to the data sample in prediction and from there to metrics, hooks and the visualizer. Whatever a model, a
tool or a test wants to know of a backbone it asks for by the names in this file, so that another backbone is one file.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.fx import Proxy

from ..gates.base import Gate, did_you_mean, registered
from ..ops.checks import check_batch

Features = tuple[Any, ...]  # maps (B, C, h, w), MixedTokens or class tokens (B, C), one per output level
HostModel = Any  # a host's model over a gated backbone, which is not typed
Decisions = Any  # what a family of gates decides: a map of regions, or maps by edge
EXPORT_HINT = 'export static(image_size, token_budget) of the backbone instead, or call `msvit export`'
KEEP = object()  # of `configured`: leave this setting as it is


class Costs(NamedTuple):
    """What a forward pass costs each image, in multiply-adds; costs of windows of one image add up.

    Attributes:
        num_tokens: Patch tokens that each layer transforms, integers, shape (layers, B).
        gate: Shape (B,), float64 like the next two.
        embedding: From pixels to tokens and, where there are weights for it, from tokens to cells, shape (B,).
        encoder: Shape (B,), with gradient where a gate learns from the cost.
        reference: Of the dense network, without gates, for an image of this size.
    """

    num_tokens: Tensor
    gate: Tensor
    embedding: Tensor
    encoder: Tensor
    reference: float

    @property
    def total(self) -> Tensor:
        """Multiply-adds of the backbone, shape (B,)."""
        return self.gate + self.embedding + self.encoder

    @property
    def cost_ratio(self) -> Tensor:
        """Multiply-adds relative to the dense network, shape (B,)."""
        return self.total / self.reference

    def of_image(self, index: int) -> 'Costs':
        """Costs of one image of the batch, as a batch."""
        one = slice(index, index + 1)
        return Costs(self.num_tokens[:, one], self.gate[one], self.embedding[one], self.encoder[one], self.reference)

    def plus(self, other: 'Costs') -> 'Costs':
        """Costs of two passes."""
        return Costs(
            self.num_tokens + other.num_tokens,
            self.gate + other.gate,
            self.embedding + other.embedding,
            self.encoder + other.encoder,
            self.reference + other.reference,
        )


class ChoiceMap(NamedTuple):
    """One map of choices, as predictions carry it.

    Attributes:
        data: Shape (B, ..., rows, cols).
        cell: Side of a cell in pixels.
        kind: What it shows: ``'scale'`` (1 = coarse), ``'logits'`` of regions, ``'routes'`` or ``'merges'`` of tokens,
            ``'groups'`` that became one token, ``'layers'`` that tokens went through. Visualizers and metrics go by it.
    """

    data: Tensor
    cell: int
    kind: str


class Choices(Protocol):
    """What a forward pass returns beside its features.

    Attributes:
        decisions: As executed.
        gate_values: Relaxed samples in [0, 1], with gradient where the gate learns; like ``decisions``.
        num_tokens: Active patch tokens of each image, integers, shape (B,).
        costs: Multiply-adds of each image.
    """

    @property
    def decisions(self) -> Decisions: ...

    @property
    def gate_values(self) -> Decisions: ...

    @property
    def num_tokens(self) -> Tensor: ...

    @property
    def costs(self) -> Costs: ...

    def maps(self) -> dict[str, ChoiceMap]:
        """What a prediction carries of the choices, by the name of its field."""

    def loss_input(self) -> Any:
        """What the gate loss judges: gate values (B, rows, cols), per scale but the smallest, or costs (B,)."""

    def statistics(self) -> dict[str, Tensor]:
        """Scalars for the training log."""

    def zero(self) -> Tensor:
        """Zero with a path to every parameter of the gate, for wrappers that want each in every iteration."""


class GatedBackbone(ABC):
    """Contract of every backbone whose gate decides which tokens run.

    A mixin that stands before the host's class. A new backbone defines the abstract methods, registers, and by that
    gets models, losses, hooks, metrics, tools and the laws of ``tests/conformance``.

    Attributes:
        gate: Decides. Another one may take its place (:meth:`configured`).
        gate_family: Class of all gates that fit.
        gate_statement: What a gate loss has to judge: ``'gate_values'`` or ``'cost_ratio'``.
        default_gate: Config of the gate where none is given.
        default_warmup_gate: Config of the gate that decides while a learned one rests.
        ratio_name: The statistic by which a share of tokens is stated: ``'coarse_ratio'`` or ``'cost_ratio'``.
        train_executions, test_executions: Modes of computing the same features, the reference first; of those for
            testing the last is the cheapest, of which costs tell. An instance may have fewer than its class.
        between: Steps that change the tokens between the layers. With any of them costs follow from more than the
            decisions (:meth:`executed_costs`), and no decisions are the dense network.
        token_classes: Classes of the label maps that teach such steps; None if none needs labels.
        additions: What weights of the dense network lack: a regular expression of state-dict keys.
        weight_families: Whose weights ``convert_checkpoint`` turns into this backbone's.
        collection, paper: Under which its models are published; title and address.
        out_type: ``'featmap'``, or what the features are instead.
        img_size: (height, width) in pixels for which the backbone is laid out.
    """

    gate: Gate
    gate_family: ClassVar[type[Gate]]
    gate_statement: ClassVar[str] = 'gate_values'
    default_gate: ClassVar[dict[str, Any]]
    default_warmup_gate: ClassVar[dict[str, Any]]
    ratio_name: ClassVar[str] = 'cost_ratio'
    train_executions: tuple[str, ...] = ('masked',)
    test_executions: tuple[str, ...] = ('masked',)
    between: tuple[Any, ...] = ()
    token_classes: int | None = None
    additions: ClassVar[str] = r'gate\..+'
    weight_families: ClassVar[tuple[str, ...]] = ()
    collection: ClassVar[str] = ''
    paper: ClassVar[dict[str, str]] = {}
    out_type: str = 'featmap'
    img_size: tuple[int, int]
    training: bool
    __call__: Callable[..., Features]

    def __new__(cls, *args: Any, **kwargs: Any) -> 'GatedBackbone':
        """Refuse a class that lacks a part of the contract, with one line that names it."""
        missing = sorted(cls.__abstractmethods__)
        missing += [name for name in ('gate_family', 'default_gate', 'default_warmup_gate') if not hasattr(cls, name)]
        if missing:
            raise ValueError(f'{cls.__name__}: wanted all that GatedBackbone asks for, got no {", ".join(missing)}')
        return super().__new__(cls)

    def __prepare_scriptable__(self) -> None:
        """Refuse ``torch.jit.script`` with one line, of this network and of models over it."""
        raise ValueError(f'torch.jit.script: wanted a network without a gate, got {type(self).__name__}; {EXPORT_HINT}')

    # What a backbone defines

    @classmethod
    @abstractmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        """Constructor words by name of tiny instances, the simplest first: on them ``tests/conformance`` proves laws.

        Together they cover what the words may change about a law. They are without dropout and stochastic depth, and
        their gates decide some of the regions or tokens either way.
        """

    @abstractmethod
    def forward_gated(self, images: Tensor, decisions: Decisions | None = None) -> tuple[Features, Choices]:
        """Features and choices of images (B, 3, H, W) of any size; given decisions override the gate's."""

    @abstractmethod
    def costs_of(self, decisions: Decisions, image_size: tuple[int, int]) -> Costs:
        """Costs of images of (height, width) pixels under these decisions, without steps between the layers."""

    @abstractmethod
    def dense_costs(self, image_size: tuple[int, int]) -> Costs:
        """Costs of one image of (height, width) pixels in the dense network, which has no gate."""

    @abstractmethod
    def dense_twin(self, image_size: tuple[int, int]) -> nn.Module:
        """The dense network with these weights, for images of one size: what benchmarks compare with."""

    def padding_macs(self, image_size: tuple[int, int]) -> int:
        """Multiply-adds of the dense twin for one image that no cell of it needs, such as those for padding.

        ``dense_costs`` do not count them.
        """
        return 0

    def adopt(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of a file of the host, whatever its version, by the names and in the sizes of this backbone.

        Those that are not of such a file stay as they are.
        """
        return weights

    def static(self, image_size: tuple[int, int], token_budget: float | None = None) -> nn.Module:
        """This network for images of one size and one budget, with shapes that no value changes: what can be exported.

        Args:
            image_size: (height, width) in pixels.
            token_budget: Active patch tokens of each image. None: as many as the gate says, by masking, at full cost.

        Returns:
            A copy in evaluation mode, from images (B, 3, height, width) to the features of :meth:`forward`.

        Raises:
            ValueError: If there is none.
        """
        raise ValueError(f'export: wanted a backbone with a static form such as MSViT, got {type(self).__name__}')

    @abstractmethod
    def dense_decisions(self, images: Tensor) -> Decisions | None:
        """The decisions for images (B, 3, H, W) under which this is the dense network; None if under none."""

    @abstractmethod
    def random_decisions(self, ratio: float, images: Tensor, generator: torch.Generator | None = None) -> Decisions:
        """Random decisions for images (B, 3, H, W) whose ``ratio_name`` is this on average.

        Raises:
            ValueError: If no decisions have this ratio.
        """

    @abstractmethod
    def stand_ins(self, metrics: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """Configs by name of gates that learn nothing, to compare with one of these mean costs (ComplexityMetric)."""

    @abstractmethod
    def state_decisions(self, decisions: Decisions) -> Gate:
        """The own gate at work, with this outcome."""

    @abstractmethod
    def draw_decisions(self, gate: Gate, images: Tensor) -> Decisions:
        """What a gate that does not learn decides for images (B, 3, H, W), before any feature is there.

        Raises:
            ValueError: If the gate needs features.
        """

    @abstractmethod
    def metainfo(self) -> dict[str, Any]:
        """What a prediction says of the backbone, for those who draw its choices."""

    # What follows from it

    def forward(self, images: Tensor, decisions: Decisions | None = None) -> Features:
        """Features of :meth:`forward_gated` alone."""
        return self.forward_gated(images, decisions)[0]

    @abstractmethod
    def build_gate(self, config: dict[str, Any]) -> Gate:
        """Build a gate of ``gate_family`` for this backbone."""

    def executed_costs(self, images: Tensor, decisions: Decisions) -> Costs:
        """Costs of these images (B, 3, H, W) under these decisions, with what steps between the layers do."""
        if not self.between:
            return self.costs_of(decisions, image_size(images))
        with torch.no_grad():
            return self.forward_gated(images, decisions)[1].costs

    def build_gate_loss(self, config: dict[str, Any]) -> nn.Module:
        """Build a loss that judges what this backbone's gate states.

        Raises:
            ValueError: If it judges something else.
        """
        loss = MODELS.build(self.fill_gate_loss(config))
        takes = getattr(loss, 'takes', None)
        if takes != self.gate_statement:
            raise ValueError(
                f'gate_loss of {type(self).__name__}: wanted one that takes {self.gate_statement}, '
                f'got {type(loss).__name__}, which takes {takes}'
            )
        return loss

    def fill_gate_loss(self, config: dict[str, Any]) -> dict[str, Any]:
        """A gate loss's config with what the backbone knows filled in."""
        return config

    @property
    def region_size(self) -> int | None:
        """Side in pixels of the regions that decisions are on, or None where tokens are routed."""
        return None

    def gate_statements(self, images: Tensor) -> Any:
        """What the gate says of images that only it sees, like ``Choices.loss_input``.

        Raises:
            ValueError: If the gate needs features.
        """
        gate = type(self.gate).__name__
        raise ValueError(f'gate crops: wanted a gate that sees images alone, got {gate}, and {len(images)} crops')

    def layers_alone(self, images: Tensor, decisions: Decisions) -> Callable[[], object] | None:
        """A call that runs the transformer layers and nothing else, on tokens embedded before; None if it cannot."""
        return None

    @property
    def layer_span(self) -> tuple[nn.Module, nn.Module] | None:
        """The module whose call begins the transformer layers and the one whose return ends them."""
        return None

    @property
    def has_cell_detail(self) -> bool:
        """Whether the cells of one token differ in their features."""
        return False

    def count_tokens(self, costs: Costs) -> Tensor:
        """Tokens of each image as predictions state them, shape (B,): the mean over the layers."""
        return costs.num_tokens.double().mean(0)

    @contextmanager
    def configured(
        self,
        *,
        gate: dict[str, Any] | Gate | None = None,
        execution: str | None = None,
        token_budget: Any = KEEP,
        between: Any = KEEP,
    ) -> Iterator['GatedBackbone']:
        """This backbone under another setting, for the duration of a ``with`` block.

        Args:
            gate: Another gate, or its config.
            execution: For training, for testing, or for both where both have it.
            token_budget: At prediction; None for no budget.
            between: Steps between the layers; () for none.

        Raises:
            ValueError: If this backbone has no such setting.
        """
        module: Any = self
        settings: dict[str, Any] = {}
        if gate is not None:
            gate = self.build_gate(gate).to(next(module.parameters())) if isinstance(gate, Mapping) else gate
            settings['gate'] = gate.train(self.training)
            if hasattr(self, 'train_ratios'):  # random budgets would overrule it in training
                settings['train_ratios'] = None
        if execution is not None:
            settings |= self._execution_settings(execution)
        if token_budget is not KEEP:
            if not hasattr(self, 'token_budget') and token_budget is not None:
                raise ValueError(f'token_budget: {type(self).__name__} knows none, got {token_budget}')
            settings |= dict(token_budget=token_budget) if hasattr(self, 'token_budget') else {}
        settings |= dict(between=between) if between is not KEEP else {}
        own = {name: getattr(self, name) for name in settings}
        try:
            for name, value in settings.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in own.items():
                setattr(self, name, value)

    def _execution_settings(self, execution: str) -> dict[str, str]:
        possible = dict(train_execution=self.train_executions, test_execution=self.test_executions)
        settings = {name: execution for name, names in possible.items() if execution in names and hasattr(self, name)}
        if execution not in {name for names in possible.values() for name in names}:
            names = sorted({*self.train_executions, *self.test_executions})
            raise ValueError(f'execution: wanted one of {", ".join(names)}, got {execution!r}')
        return settings


def registered_backbones() -> dict[str, type[GatedBackbone]]:
    """All registered gated backbones by name."""
    return registered(GatedBackbone)


def check_backbone(config: Mapping[str, Any], owner: str) -> None:
    """Check that a config names a registered class, before a host fails to build it with fewer words.

    Args:
        owner: Who wants it, for the error.

    Raises:
        ValueError: If it does not, with the gated backbones and the names that are close.
    """
    wanted = config.get('type')
    registries = [MODELS, *MODELS.children.values()]
    qualified = isinstance(wanted, type) or '.' in str(wanted)  # with its scope or module, which may not be imported
    if not (qualified or any(wanted in registry.module_dict for registry in registries)):
        names = registered_backbones()
        raise ValueError(
            f'{owner}: wanted a gated backbone, {" or ".join(names)}, got {wanted!r}{did_you_mean(wanted, names)}'
        )


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Check that a word of a constructor is one of its meanings, and of their type.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices or type(value) not in map(type, choices):
        raise ValueError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}')


def image_size(images: Tensor) -> tuple[int, int]:
    """(height, width) of images (B, 3, H, W)."""
    return images.shape[-2], images.shape[-1]


def height_and_width(sides: int | Sequence[int]) -> tuple[int, int]:
    """Both sides of an image of which one number says that they are equal."""
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return height, width


def check_runs(images: Tensor) -> None:
    """Check that a forward pass really runs: how many tokens there are follows from the values of the images.

    Raises:
        ValueError: If it is recorded instead, or on the meta device.
    """
    recorders = {
        'the meta device': images.is_meta,
        'torch.jit.trace': torch.jit.is_tracing(),
        'torch.export': getattr(torch.compiler, 'is_exporting', bool)(),  # torch < 2.7 does not tell
    }
    if met := [name for name, there in recorders.items() if there]:
        raise ValueError(f'images: wanted a tensor with values, got one of {met[0]}; {EXPORT_HINT}')


def check_images(images: Tensor, channels: int) -> None:
    """Check a batch of images.

    On a GPU their values are not looked at: what is not finite there makes the features of its image so.

    Raises:
        ValueError: If it is not floating point of shape (B, channels, H, W), not finite, or no tensor with values.
    """
    if isinstance(images, Proxy):
        raise ValueError(f'images: wanted a tensor, got a Proxy of torch.fx; {EXPORT_HINT}')
    check_runs(images)
    check_batch(images, channels)
    if images.is_cuda:  # a look at the values would hold up the GPU
        return
    if not (images.sum().isfinite() or images.isfinite().all()):  # finite numbers may have an infinite sum
        bad = (~images.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(f'images must be finite, got NaN or infinity in image(s) {bad} of the batch')
