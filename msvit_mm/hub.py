"""Backbones with the Hugging Face Hub's own methods: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``.

The Hub keeps a bare backbone as its constructor's words and its weights. Whole models, of a config:
``msvit publish-model --format safetensors`` and :func:`~msvit_mm.checkpoints.load_from_hub`.
"""

from typing import Any

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:
    raise ImportError('msvit_mm.hub needs huggingface_hub; install with `pip install msvit_mm[hub]`.') from error

from safetensors.torch import load_file

from .backbones import DynamicTokenRoutingTransformer, MSSwin, MSViT
from .checkpoints import carry_metadata
from .checkpoints.hub import load_from_hub
from .checkpoints.names import check_names

__all__ = ['HubDynamicTokenRoutingTransformer', 'HubMSSwin', 'HubMSViT', 'load_from_hub']
CARD = dict(library_name='msvit_mm', pipeline_tag='image-feature-extraction')


class CheckedHubMixin(PyTorchModelHubMixin):
    """The Hub's methods, which build registered classes alone from what they download."""

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **words: Any) -> 'CheckedHubMixin':
        check_names(words, f"'{model_id}'")
        return super()._from_pretrained(model_id=model_id, **words)

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Load, of the grid of positions that the words say: the file keeps none."""
        weights = carry_metadata(load_file(model_file, device=str(map_location)), model.state_dict())
        model.load_state_dict(weights, strict=strict)
        return model.eval()

    def save_pretrained(self, *args: Any, **words: Any) -> Any:
        """Save words and weights.

        Raises:
            ValueError: If the words do not build this network again: JSON holds no classes, only their names.
        """
        own: Any = self
        twin = type(own)(**own._hub_mixin_config)
        if repr(twin) != repr(own):
            wanted = "words of text and numbers, such as gate=dict(type='EdgeGate')"
            got = f'some that come back as {type(twin.gate).__name__} for {type(own.gate).__name__}'
            raise ValueError(f'save_pretrained: wanted {wanted}, got {got}')
        return super().save_pretrained(*args, **words)


class HubMSViT(CheckedHubMixin, MSViT, tags=['msvit'], paper_url=MSViT.paper['URL'], **CARD):
    """:class:`~msvit_mm.backbones.MSViT` with the Hub's methods.

    Example:
        >>> import tempfile
        >>> backbone = HubMSViT(arch='deit-tiny', img_size=64, gate=dict(type='EdgeGate'))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = backbone.save_pretrained(folder)
        ...     HubMSViT.from_pretrained(folder).gate.coarse_ratio
        Loading weights from local directory
        0.75
    """


class HubMSSwin(CheckedHubMixin, MSSwin, tags=['msvit'], paper_url=MSSwin.paper['URL'], **CARD):
    """:class:`~msvit_mm.backbones.MSSwin` with the Hub's methods."""


class HubDynamicTokenRoutingTransformer(
    CheckedHubMixin,
    DynamicTokenRoutingTransformer,
    tags=['dit'],
    paper_url=DynamicTokenRoutingTransformer.paper['URL'],
    **CARD,
):
    """:class:`~msvit_mm.backbones.DynamicTokenRoutingTransformer` with the Hub's methods."""
