"""The dense network beside a mixed-scale one: its host, as a careful user of it would run it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .extended_vit import ExtendedViT


class DenseViT(ExtendedViT):
    """mmpretrain's ``VisionTransformer`` with tokens in memory order.

    The host's own patch embedding leaves them transposed where no class token follows, which slows every layer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pre_norm.register_forward_hook(lambda module, args, tokens: tokens.contiguous())

    def train(self, mode: bool = True) -> 'DenseViT':
        """Set the mode and return self, as torch does and the host does not."""
        super().train(mode)
        return self

    @classmethod
    def of_mixed(cls, words: dict[str, Any], state: dict[str, Tensor], grid: tuple[int, int]) -> 'DenseViT':
        """The host of these words with the weights of a mixed-scale network whose positions are laid out for ``grid``.

        Positions are resized once, here, and not in every call.
        """
        twin = cls(**words).to(state['patch_embed.projection.weight'])
        if twin.pos_embed is None:
            twin.load_state_dict(state)
            return twin
        resized = twin.resize_pos_embed(
            state['pos_embed'], grid, twin.patch_resolution, twin.interpolate_mode, twin.num_class_tokens
        )
        twin.load_state_dict(state | dict(pos_embed=resized))
        return twin

    @torch.no_grad()
    def layers_alone(self, images: Tensor) -> Callable[[], object]:
        """A call that runs layers and last norm, if there is one, and nothing else, on the tokens of these images."""
        if self.is_extended:
            return partial(self.eval().run_dense, self.begin(images)[0])
        embedded: list[Tensor] = []
        hook = self.pre_norm.register_forward_hook(lambda module, args, tokens: embedded.append(tokens.contiguous()))
        self.eval()(images)
        hook.remove()
        return partial(nn.Sequential(*self.layers, *([self.ln1] if self.final_norm else [])), embedded[0])

    @property
    def layer_span(self) -> tuple[nn.Module, nn.Module]:
        """The module whose call begins the layers and the one whose return ends them."""
        return self.layers[0].ln1, self.layers[-1].ffn
