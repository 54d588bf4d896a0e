"""Backbones with the Hugging Face Hub's own methods: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``.

The Hub keeps a bare backbone as its constructor's words and its weights. Whole models, of a config:
``msvit publish-model --format safetensors`` and :func:`~msvit_mm.checkpoints.load_from_hub`.
"""

from typing import Any

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:
    raise ImportError('msvit_mm.hub needs huggingface_hub; install with `pip install msvit_mm[hub]`.') from error

from .backbones import DynamicTokenRoutingTransformer, MSSwin, MSViT
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
