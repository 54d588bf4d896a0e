"""What the laws are proved on: every registered gated backbone, its examples, and decisions of every kind.

Equalities are proved in double precision, where only a wrong formula can break them. No parameter is at a special
value, images are non-square, and those of a batch have different decisions.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from msvit_mm.backbones import Choices, GatedBackbone, registered_backbones
from msvit_mm.gates import Gate, registered

SIZE = (64, 96)
ODD_SIZE = (70, 91)
SIZES = (SIZE, ODD_SIZE, (64, 64))
RATIO = 0.9  # a share that both kinds of `ratio_name` can have
METRICS = dict(coarse_ratio=0.5, cost_ratio=RATIO)


class Case(NamedTuple):
    """One example of one backbone."""

    backbone: type[GatedBackbone]
    example: str

    def __str__(self) -> str:
        return f'{self.backbone.__name__}, {self.example}'

    def words(self, **words: Any) -> dict:
        return copy.deepcopy(self.backbone.examples()[self.example]) | words

    def build(self, std: float = 0.2, **words: Any) -> GatedBackbone:
        """The tiny instance in evaluation mode and double precision."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return perturb(self.backbone(**self.words(**words)), std).double().eval()


class GateCase(NamedTuple):
    """One gate over the first example of a backbone."""

    case: Case
    gate: type[Gate]
    words: dict

    def __str__(self) -> str:
        return f'{self.case}, {self.gate.__name__}({self.words})'

    def build(self) -> GatedBackbone:
        return self.case.build(gate=dict(type=self.gate, **self.words))


def cases(backbone: type[GatedBackbone]) -> list[Case]:
    return [Case(backbone, example) for example in backbone.examples()]


def gate_cases(backbone: type[GatedBackbone]) -> list[GateCase]:
    """All gates that can stand alone, the others need one of them; those of all scales also over three."""
    gates = registered(backbone.gate_family).values()
    plain = [GateCase(cases(backbone)[0], gate, words) for gate in gates for words in gate.examples]
    three = [case for case in cases(backbone) if len(case.words().get('patch_sizes', ())) == 3][:1]
    nested = [gate for gate in gates if getattr(gate, 'nested', False)]
    return plain + [GateCase(case, gate, words) for case in three for gate in nested for words in gate.examples]


def all_cases() -> list[Case]:
    return [case for backbone in registered_backbones().values() for case in cases(backbone)]


def all_gate_cases() -> list[GateCase]:
    return [case for backbone in registered_backbones().values() for case in gate_cases(backbone)]


def need(condition: object, what: str) -> None:
    """Skip a law that speaks of what this backbone has not."""
    if not condition:
        pytest.skip(f'no {what}')


def close(actual: Any, wanted: Any, of: str = '', tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f'{of}: {text}')


def perturb(module: nn.Module, std: float) -> nn.Module:
    """Move every parameter off its initial value; a gate's less: of large logits all decisions would be alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = std / 10 if 'gate.' in name else std
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def random_images(size: tuple[int, int] = SIZE, batch: int = 3) -> Tensor:
    """Noise, of another contrast in each image."""
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images * torch.linspace(0.5, 2.0, batch, dtype=torch.float64)[:, None, None, None]


def map_decisions(function: Callable[..., Tensor], *decisions: Any) -> Any:
    """Decisions of the same kind, map by map."""
    first = decisions[0]
    if isinstance(first, Tensor):
        return function(*decisions)
    if isinstance(first, Mapping):
        return {name: function(*(x[name] for x in decisions)) for name in first}
    return tuple(function(*maps) for maps in zip(*decisions, strict=True))


def of_image(decisions: Any, i: int) -> Any:
    return map_decisions(lambda x: x[i : i + 1], decisions)


def maps_of(decisions: Any) -> list[Tensor]:
    """The maps of decisions of any kind."""
    if isinstance(decisions, Tensor):
        return [decisions]
    return list(decisions.values() if isinstance(decisions, Mapping) else decisions)


def is_equal(first: Any, second: Any) -> bool:
    same = map_decisions(lambda x, y: torch.tensor(x.shape == y.shape and bool((x == y).all())), first, second)
    return all(maps_of(same))


def stand_in_decisions(backbone: GatedBackbone, images: Tensor) -> Iterator[Any]:
    """What each stand-in decides that needs no features."""
    for config in backbone.stand_ins(METRICS).values():
        with contextlib.suppress(ValueError):
            yield backbone.draw_decisions(backbone.build_gate(config), images)


def varied_decisions(backbone: GatedBackbone, images: Tensor) -> Any:
    """For each image other decisions: random ones, those of warming up, the dense network's, those of the stand-ins."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        warmup = backbone.build_gate(backbone.default_warmup_gate)
        kinds = [backbone.random_decisions(RATIO, images, torch.Generator().manual_seed(3))]
        kinds += [backbone.draw_decisions(warmup, images), backbone.dense_decisions(images)]
        kinds = [x for x in kinds if x is not None] + list(stand_in_decisions(backbone, images))
    rows = [of_image(kinds[i % len(kinds)], i) for i in range(len(images))]
    return map_decisions(lambda *maps: torch.cat(maps).to(images), *rows)


def tensors_of(features: Any) -> list[Tensor]:
    """The tensors among features, of whatever type these are."""
    if isinstance(features, Tensor):
        return [features]
    return [x for part in features if isinstance(part, Tensor | tuple) for x in tensors_of(part)]


def run(
    backbone: GatedBackbone, images: Tensor, decisions: Any = None, execution: str | None = None, training: bool = False
) -> tuple[tuple, Choices]:
    """A forward pass from seed 4; without gradient unless in training."""
    torch.manual_seed(4)
    was_training = backbone.training
    if training != was_training:  # a walk over all modules
        backbone.train(training)
    with backbone.configured(execution=execution), torch.set_grad_enabled(training):
        features, choices = backbone.forward_gated(images, decisions)
    if training != was_training:
        backbone.train(was_training)
    return features, choices


def task_loss(features: Any) -> Tensor:
    """A scalar of all features, in which no two places and channels count the same."""
    generator, total = torch.Generator().manual_seed(5), 0
    for x in tensors_of(features):
        weights = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        total = total + (x * weights).sum() + (x.square() * weights).sum()
    return total


def gate_loss(choices: Choices) -> Tensor:
    """A scalar of what the gate, and steps between the layers, state."""
    generator, total = torch.Generator().manual_seed(6), torch.zeros((), dtype=torch.float64)
    for stated in tensors_of(choices.loss_input()):
        weights = torch.randn(stated.shape, generator=generator, dtype=torch.float64)
        total = total + (stated * weights).sum() + (stated.square() * weights).sum()
    steps = getattr(choices, 'steps', None)  # what steps between the layers learn from is stated beside
    return total + sum(task_loss(x.logits) for x in steps.logits) if steps else total


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor | None]:
    """Of all parameters by name; None where the loss does not reach one, or it is frozen."""
    learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, learning.values(), allow_unused=True, retain_graph=True) if learning else ()
    return dict.fromkeys(dict(module.named_parameters())) | dict(zip(learning, found, strict=True))
