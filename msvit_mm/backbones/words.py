"""Which words of MSViT's constructor have a meaning, alone and together."""

from typing import TYPE_CHECKING, Any

from ..ops.checks import check_in, check_range
from .base import check_choice

if TYPE_CHECKING:
    from .msvit import MSViT

CHOICES = dict(
    gate_gradient=('output', 'mask', 'both'),
    attention_scope=('image', 'region'),
    coarse_embedding=('shared', 'own'),
)
# Of steps between the layers: those on all candidates cannot say what one that does not run would merge with.
PACKED_EXECUTIONS = ('counterfactual', 'packed'), ('packed',)
DECIDED = ('counterfactual_share', 'gate_temperature', 'token_budget', 'train_ratios', 'drop_path_rate')
MASK_EXECUTIONS = ('masked', 'trimmed')  # in which a token's weight as a key reaches the gate


def check_words(backbone: type['MSViT'], **words: Any) -> None:
    """Check the words before anything is built.

    Raises:
        ValueError: If one has no meaning, with the accepted ones.
    """
    choices = CHOICES | dict(
        train_execution=backbone.train_executions, test_execution=backbone.test_executions, out_type=backbone.OUT_TYPES
    )
    for name, meanings in choices.items():
        check_choice(name, words[name], meanings)
    if isinstance(words['arch'], str):
        check_choice('arch', words['arch'].lower(), tuple(sorted(backbone.arch_zoo)))
    gradient, execution = words['gate_gradient'], words['train_execution']
    if gradient != 'output' and execution not in MASK_EXECUTIONS:
        raise ValueError(f"gate_gradient={gradient!r} needs train_execution='masked' or 'trimmed', got {execution!r}")
    check_decided(**{name: words[name] for name in DECIDED})
    if words['train_ratios'] is not None and gradient != 'output':
        raise ValueError(f"train_ratios needs gate_gradient='output', got {gradient!r}")


def check_decided(
    counterfactual_share: float,
    gate_temperature: float,
    token_budget: float | None,
    train_ratios: tuple[float, float] | None,
    drop_path_rate: float,
) -> None:
    """Check the numbers that every backbone over regions takes.

    Raises:
        ValueError: If one is out of its range.
    """
    check_in('(0, 1]', counterfactual_share=counterfactual_share)
    check_in('(0, inf)', gate_temperature=gate_temperature)
    if token_budget is not None:
        check_in('(0, inf)', token_budget=token_budget)
    check_in('[0, 1)', drop_path_rate=drop_path_rate)
    if train_ratios is not None:
        check_range('[0, 1]', train_ratios=train_ratios)


def check_built(backbone: 'MSViT') -> None:
    """Check what words say of the parts that they built.

    Raises:
        ValueError: If a class token lies in no region, or nothing of the task reaches a learned gate.
    """
    projection, side = backbone.patch_embed.projection, (backbone.patch_size, backbone.patch_size)
    if not projection.kernel_size == projection.stride == side or any(projection.padding):
        got = f'kernels of {projection.kernel_size}, stride {projection.stride}, padding {projection.padding}'
        raise ValueError(f'patch_cfg: wanted patches of {side} pixels that neither overlap nor leave gaps, got {got}')
    layers = range(backbone.num_layers)
    if not backbone.out_indices or not set(backbone.out_indices) <= set(layers):
        raise ValueError(
            f'out_indices: wanted layers of {layers.start} to {layers.stop - 1}, got {backbone.out_indices}'
        )
    if backbone.attention_scope == 'region' and backbone.num_extra_tokens:
        raise ValueError("attention_scope='region' needs with_cls_token=False: a class token lies in no region")
    gradient, execution = backbone.gate_gradient, backbone.train_execution
    unreached = backbone.out_type == 'cls_token' and gradient != 'mask' and execution != 'packed'
    if unreached and backbone.gate.learnable:
        raise ValueError(
            "out_type='cls_token' never returns to the grid, where the output mix reaches the gate: a learned gate "
            f"needs gate_gradient='mask' or train_execution='packed', got {gradient!r}, {execution!r}"
        )


def check_between(backbone: 'MSViT') -> None:
    """Check that the words fit steps between the layers.

    Raises:
        ValueError: If tokens run that are not active, or all tokens of a region may leave.
    """
    if backbone.exits is not None and backbone.attention_scope == 'region':
        raise ValueError("exits: wanted attention_scope='image', got 'region', where all tokens of one may leave")
    for name, possible in zip(('train_execution', 'test_execution'), PACKED_EXECUTIONS, strict=True):
        if (got := getattr(backbone, name)) not in possible:
            raise ValueError(f'merge and exits: wanted {name} {" or ".join(map(repr, possible))}, got {got!r}')
