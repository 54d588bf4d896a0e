"""What all gates have in common, and how one is built for a backbone."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

CERTAIN = 10.0  # a logit whose sigmoid is 0 or 1 to four digits


class Gate(BaseModule):
    """Interface of all gates: logits whose sign is a decision.

    A family of gates, such as those of regions, is a subclass that says what ``forward`` takes and returns.

    Attributes:
        examples: Constructor words, but for those that a backbone fills in, with which ``tests/conformance`` proves the
            laws; none for a gate that needs another one.
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({},)

    @property
    def learnable(self) -> bool:
        """Whether a gradient step can change this gate."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def macs(self, tiling: Any) -> int:
        """Multiply-adds for one image of this tiling; rules without multiplications by weights count 0."""
        return 0

    def shift_logits(self, offset: float) -> None:
        """Add a constant to the logits of all images, in place.

        Raises:
            ValueError: If this gate's logits are a rule's and no weights.
        """
        raise ValueError(f'gate: wanted one whose logits can shift (ScaleGate, StaticGate), got {type(self).__name__}')


def build_gate(config: dict[str, Any], family: type[Gate], **words: Any) -> Gate:
    """Build a gate of one family.

    Args:
        config: With the ``type``, a registered name or the class itself.
        family: What the gate must be a subclass of.
        words: What the backbone fills in.

    Raises:
        ValueError: As of :func:`gate_type`.
    """
    gate_type(config, family)
    return MODELS.build({**config, **words})


def gate_type(config: Any, family: type[Gate]) -> type[Gate]:
    """The class that a gate's config names.

    Raises:
        ValueError: If it is no config that names a registered gate of this family.
    """
    wanted = config.get('type') if isinstance(config, Mapping) else None
    found = MODELS.get(wanted) if wanted and isinstance(wanted, str) else wanted
    if not (isinstance(found, type) and issubclass(found, family)):
        gates = registered(family)
        hint = did_you_mean(wanted, gates)
        raise ValueError(f'gate must be a config whose type is one of {", ".join(gates)}, got {config}{hint}')
    return found


def did_you_mean(wanted: object, names: Iterable[str]) -> str:
    """The end of an error about a name: those that are close to it, or nothing.

    Example:
        >>> did_you_mean('ScaelGate', ['EdgeGate', 'ScaleGate'])
        ' (did you mean ScaleGate or EdgeGate?)'
    """
    close = difflib.get_close_matches(str(wanted), list(names), cutoff=0.5)
    return f' (did you mean {" or ".join(close)}?)' if close else ''


def registered(family: type) -> dict[str, Any]:
    """The registered classes of a family, such as that of a backbone's gates, by name."""
    classes = {cls.__name__: cls for cls in MODELS.module_dict.values() if isinstance(cls, type)}
    return {name: cls for name, cls in sorted(classes.items()) if issubclass(cls, family)}


def linear_macs(module: nn.Module) -> int:
    """Multiply-adds of a module's linear layers on one token."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
