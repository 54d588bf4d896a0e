"""Segmenter's mask transformer on the tokens of a mixed grid."""

from functools import partial

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from torch import Tensor, nn

from ..ops.attention import packed_attention
from ..ops.macs import encoder_macs
from ..ops.mixed_grid import MixedTokens


@MODELS.register_module()
class MixedScaleMaskTransformerHead(SegmenterMaskTransformerHead):
    """Segmenter's mask transformer in token space: the decoder shrinks with the tokens.

    Each image's patch tokens and the class embeddings go through the decoder's layers; the class scores of a token then
    go to all cells that it covers. Words and state-dict keys are those of mmseg's ``SegmenterMaskTransformerHead``, and
    so are the scores where all regions are fine. Stochastic depth drops branches of whole images.

    The gate learns where scores return to the grid, as it does from a backbone's feature maps: the tokens of the other
    scale that the backbone hands over are queries in the decoder, too, never keys and without backward, and the
    gradient of a region's gate value is the contrast between its coarse and its fine scores.

    Args: those of ``SegmenterMaskTransformerHead``; ``in_index`` picks among the backbone's ``out_indices``.

    Source: Strudel et al., "Segmenter: Transformer for Semantic Segmentation", arXiv 2105.05633.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.drop_path_rates = [_take_drop_path(layer) for layer in self.layers]

    def forward(self, inputs: tuple[MixedTokens | Tensor, ...]) -> Tensor:
        """Class scores of the cells.

        Args:
            inputs: MixedTokens of a backbone with ``out_type='tokens'``, or plain maps (B, C, h, w), by level.

        Returns:
            Shape (B, classes, h, w).
        """
        features = self._transform_inputs(inputs)
        if isinstance(features, Tensor):
            batch, _, *size = features.shape
            patches = features.flatten(2).transpose(1, 2).flatten(0, 1)  # (B, C, h, w) -> (B * h * w, C)
            scores, _ = self.score(patches, [size[0] * size[1]] * batch)
            return scores.unflatten(0, (batch, *size)).permute(0, 3, 1, 2)  # (B * h * w, K) -> (B, K, h, w)
        active, others, layout = features
        extra = layout.num_extra_tokens
        patches = torch.cat([x[extra:] for x in active.split(layout.active.lengths)])
        lengths = [length - extra for length in layout.active.lengths]
        scores, other_scores = self.score(patches, lengths, others, layout.others and layout.others.lengths)
        padded = [F.pad(x, (0, 0, extra, 0)) for x in scores.split(lengths)]  # class tokens cover no cell
        (logits,) = layout.scatter([(torch.cat(padded), other_scores)])
        return logits

    def score(
        self, patches: Tensor, lengths: list[int], others: Tensor | None = None, other_lengths: list[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Class scores of packed tokens.

        Args:
            patches: Patch tokens of all images, shape (T, C).
            lengths: Patch tokens of each image.
            others: Tokens that are queries alone, without gradient, shape (T', C), or None.
            other_lengths: Those of each image.

        Returns:
            Shape (T, classes), and (T', classes) or None.
        """
        classes = self.cls_emb.expand(len(lengths), -1, -1)
        pairs = zip(self.dec_proj(patches).split(lengths), classes, strict=True)
        x = torch.cat([tokens for pair in pairs for tokens in pair])  # each image's patches, then its classes
        x_lengths = [length + self.num_classes for length in lengths]
        with torch.no_grad():
            z = None if others is None else self.dec_proj(others)
        for layer, keep in zip(self.layers, self._draw_drop_path(x, len(lengths)), strict=True):
            dropout = layer.attn.attn.dropout if layer.training else 0.0
            attend = partial(packed_attention, key_lengths=x_lengths, dropout=dropout)
            query, key, value = _project(layer, x, 3)
            attended = attend(query, key, value, query_lengths=x_lengths)
            x = _finish(layer, x, attended, _keep_per_token(keep, x_lengths))
            if z is not None:
                with torch.no_grad():
                    attended = attend(*_project(layer, z, 1), key, value, query_lengths=other_lengths)
                    z = _finish(layer, z, attended, _keep_per_token(keep, other_lengths))

        images = self.decoder_norm(x).split(x_lengths)
        patches = torch.cat([tokens[: -self.num_classes] for tokens in images])
        classes = torch.stack([tokens[-self.num_classes :] for tokens in images])  # (B, K, C)
        classes = F.normalize(self.classes_proj(classes), dim=-1)
        scores = self._compare(patches, lengths, classes)
        with torch.no_grad():
            return scores, None if z is None else self._compare(self.decoder_norm(z), other_lengths, classes)

    def count_macs(self, num_tokens: Tensor) -> Tensor:
        """Multiply-adds for images of this many active patch tokens, any shape."""
        num_tokens, dims = num_tokens.double(), self.dec_proj.out_features
        linears = [m for layer in self.layers for m in layer.ffn.modules() if isinstance(m, nn.Linear)]
        ffn_macs = sum(linear.weight.numel() for linear in linears) / len(self.layers)
        layers = encoder_macs(num_tokens + self.num_classes, dims, ffn_macs, len(self.layers))
        projections = num_tokens * (self.dec_proj.weight.numel() + dims**2) + self.num_classes * dims**2
        return layers + projections + num_tokens * self.num_classes * dims

    def _compare(self, patches: Tensor, lengths: list[int], classes: Tensor) -> Tensor:
        """Scores of tokens against their image's classes (B, K, C), (T, C) -> (T, K)."""
        images = F.normalize(self.patch_proj(patches), dim=-1).split(lengths)
        return self.mask_norm(torch.cat([x @ y.T for x, y in zip(images, classes, strict=True)]))

    def _draw_drop_path(self, x: Tensor, batch: int) -> list[Tensor | None]:
        """Stochastic depth: for each layer nothing, or a factor per image, shape (B,)."""
        rates = [rate if layer.training else 0.0 for rate, layer in zip(self.drop_path_rates, self.layers, strict=True)]
        return [torch.rand(batch, device=x.device).lt(1 - rate).to(x) / (1 - rate) if rate else None for rate in rates]


def _take_drop_path(layer: nn.Module) -> float:
    """Take the layer's drop path out, which mmseg has on the feed-forward branch alone, and return its rate."""
    rate = float(getattr(layer.ffn.dropout_layer, 'drop_prob', 0.0) or 0.0)
    layer.ffn.dropout_layer = nn.Identity()
    return rate


def _keep_per_token(keep: Tensor | None, lengths: list[int]) -> Tensor | None:
    """(B,) -> (T, 1)."""
    return None if keep is None else torch.cat([x.expand(length, 1) for x, length in zip(keep, lengths, strict=True)])


def _project(layer: nn.Module, x: Tensor, count: int) -> tuple[Tensor, ...]:
    """The first ``count`` of query, key and value, (T, C) -> (T, heads, head_dims) each."""
    attn = layer.attn.attn
    size = count * attn.embed_dim
    bias = None if attn.in_proj_bias is None else attn.in_proj_bias[:size]
    projected = F.linear(layer.norm1(x), attn.in_proj_weight[:size], bias)
    return projected.unflatten(-1, (count, attn.num_heads, -1)).unbind(-3)


def _finish(layer: nn.Module, x: Tensor, attended: Tensor, keep: Tensor | None) -> Tensor:
    """The rest of a layer after its attention."""
    x = x + layer.attn.proj_drop(layer.attn.attn.out_proj(attended.flatten(-2)))
    branch = layer.ffn(layer.norm2(x), identity=x.new_zeros(()))
    return x + (branch if keep is None else branch * keep)
