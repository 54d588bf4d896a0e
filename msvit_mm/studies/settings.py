"""One trained network in other settings: under another gate, a token budget, a shifted threshold, stated decisions.

All that the studies ask of a gated backbone, beside its forward pass and its counts, goes through this file.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import nn

from ..models import gate_replaced
from ..models.variants import EXECUTIONS, Variant, executions_of, make_variants, random_decisions, state_decisions

__all__ = [
    'EXECUTIONS',
    'Variant',
    'executions_of',
    'make_variants',
    'random_decisions',
    'setting',
    'stand_in_gates',
    'state_decisions',
]


def stand_in_gates(model: nn.Module, metrics: Mapping[str, float]) -> dict[str, dict]:
    """Configs by name of gates that learn nothing, of the mean costs that the model's own has (ComplexityMetric)."""
    return model.choices.stand_in_gates(metrics)


@contextmanager
def setting(
    model: nn.Module, gate: dict | None = None, token_budget: float | None = None, threshold: float | None = None
) -> Iterator[None]:
    """The same network in another setting, for the duration of a ``with`` block.

    Args:
        model: A model over a gated backbone.
        gate: Config of another gate.
        token_budget: What every image keeps.
        threshold: Of the gate's logits, instead of 0.
    """
    backbone = model.backbone
    with ExitStack() as stack:
        if gate is not None:
            stack.enter_context(gate_replaced(model, gate))
        if token_budget is not None:
            stack.callback(setattr, backbone, 'token_budget', backbone.token_budget)
            backbone.token_budget = token_budget
        if threshold is not None:
            hook = backbone.gate.register_forward_hook(lambda gate, args, logits: logits - threshold)
            stack.callback(hook.remove)
        yield
