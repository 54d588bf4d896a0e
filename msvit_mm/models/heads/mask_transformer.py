"""Segmenter's mask transformer on the tokens of a mixed grid."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from torch import Tensor

from ...backbones.coarse import DetailOf, build_head_detail, detail_macs
from ...backbones.layers import EqualRows, PackedSequences, SegmenterLayer, Stream, draw_drop_path, run_layers
from ...gates.base import linear_macs
from ...ops.macs import encoder_macs
from ...ops.mixed_grid import MixedGrid, MixedTokens, TokenRows
from ...ops.tiling import active_slots


@MODELS.register_module()
class MixedScaleMaskTransformerHead(SegmenterMaskTransformerHead):
    """Segmenter's mask transformer in token space: the decoder shrinks with the tokens.

    Each image's patch tokens and the class embeddings go through the decoder's layers; the class scores of a token then
    go to all cells that it covers. Words and state-dict keys are those of mmseg's ``SegmenterMaskTransformerHead``, and
    so are the scores where all regions are fine. Stochastic depth drops branches of whole images.

    The gate learns where scores return to the grid, as it does from a backbone's feature maps: the tokens of the other
    scale that the backbone hands over are queries in the decoder, too, never keys and without backward, and the
    gradient of a region's gate value is the contrast between its coarse and its fine scores.

    Args:
        detail: Words of :class:`~msvit_mm.backbones.coarse.CellDetail`, here on class scores, with the backbone's
            ``patch_size``: ``dict(patch_size=16, hidden_dims=64)``; of more than two scales with its ``patch_sizes``,
            and one for each but the smallest. None: all cells of a coarse token have its scores.

    Further arguments: those of ``SegmenterMaskTransformerHead``; ``in_index`` picks among the backbone's
    ``out_indices``.

    Source: Strudel et al., "Segmenter: Transformer for Semantic Segmentation", arXiv 2105.05633.
    """

    def __init__(self, *args, detail: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.detail = build_head_detail(detail, self.num_classes)
        self.adapter = SegmenterLayer()
        self.drop_path_rates = [self.adapter.take_drop_path(layer) for layer in self.layers]

    def forward(self, inputs: tuple[MixedTokens | TokenRows | Tensor, ...]) -> Tensor:
        """Class scores of the cells.

        Args:
            inputs: MixedTokens of a backbone with ``out_type='tokens'``, TokenRows of its static form, or plain maps
                (B, C, h, w), by level.

        Returns:
            Shape (B, classes, h, w).
        """
        features = self._transform_inputs(inputs)
        if isinstance(features, TokenRows):
            return features.scatter(self.score_rows(features.tokens, features.is_key), self.detail)
        if isinstance(features, Tensor):
            batch, _, *size = features.shape
            patches = features.flatten(2).transpose(1, 2).flatten(0, 1)  # (B, C, h, w) -> (B * h * w, C)
            scores, _ = self.score(patches, [size[0] * size[1]] * batch)
            return scores.unflatten(0, (batch, *size)).permute(0, 3, 1, 2)  # (B * h * w, K) -> (B, K, h, w)
        layout, counterfactual = features.layout, features.counterfactual
        active, lengths, place = features.distinct()  # what has merged is one token here, too
        extra, others = layout.num_extra_tokens, layout.counterfactual
        patches = torch.cat([x[extra:] for x in active.split(lengths)])
        lengths = [length - extra for length in lengths]
        scores, further = self.score(patches, lengths, counterfactual, None if others is None else others.lengths)
        padded = torch.cat([F.pad(x, (0, 0, extra, 0)) for x in scores.split(lengths)])  # class tokens cover no cell
        padded = padded if place is None else padded[place]
        detail = None if self.detail is None else DetailOf(self.detail, features.images, layout.tiling)
        (logits,) = layout.scatter([(padded, further)], detail)
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
        batch, num_classes = len(lengths), self.num_classes
        pairs = zip(self.dec_proj(patches).split(lengths), self.cls_emb.expand(batch, -1, -1), strict=True)
        x = torch.cat([tokens for pair in pairs for tokens in pair])  # each image's patches, then its classes
        active = Stream(x, _sequences([length + num_classes for length in lengths], x.device))
        queries = None
        if others is not None:
            assert other_lengths is not None
            with torch.no_grad():
                queries = Stream(self.dec_proj(others), _sequences(other_lengths, x.device))
        rates = [rate if layer.training else 0.0 for rate, layer in zip(self.drop_path_rates, self.layers, strict=True)]
        passed = run_layers(
            self.layers,
            self.adapter,
            active,
            queries,
            out_indices=[len(self.layers) - 1],
            last_norm=self.decoder_norm,
            drop_path=draw_drop_path(rates, self.adapter.branches, batch, x, sparing=True),
        )
        (level,), last = passed.levels, passed.sequences[-1]
        assert isinstance(last, PackedSequences)
        images = level[0].split(last.lengths)
        patches = torch.cat([tokens[:-num_classes] for tokens in images])
        classes = torch.stack([tokens[-num_classes:] for tokens in images])  # (B, K, C)
        classes = F.normalize(self.classes_proj(classes), dim=-1)
        scores = self._compare(patches, lengths, classes)
        if queries is None:
            return scores, None
        assert level[1] is not None and other_lengths is not None
        with torch.no_grad():
            return scores, self._compare(level[1], other_lengths, classes)

    def score_rows(self, patches: Tensor, is_key: Tensor | None = None) -> Tensor:
        """Class scores of as many tokens in each image, in evaluation mode, (B, N, C) -> (B, N, classes)."""
        is_key = None if is_key is None else F.pad(is_key, (0, self.num_classes), value=True)
        x = torch.cat([self.dec_proj(patches), self.cls_emb.expand(len(patches), -1, -1)], dim=1)
        last = len(self.layers) - 1
        stream, norm = Stream(x, EqualRows(is_key)), self.decoder_norm
        (level,) = run_layers(self.layers, self.adapter, stream, out_indices=[last], last_norm=norm).levels
        patches, classes = level[0].split([patches.shape[1], self.num_classes], dim=1)
        patches, classes = self.patch_proj(patches), self.classes_proj(classes)
        return self.mask_norm(F.normalize(patches, dim=-1) @ F.normalize(classes, dim=-1).transpose(1, 2))

    def count_macs(self, num_tokens: Tensor, layout: MixedGrid | None = None) -> Tensor:
        """Multiply-adds for images of this many active patch tokens, of any shape.

        Args:
            layout: Where tokens of coarse nodes, whose cells get detail, are among them; None: they are all fine.
        """
        num_tokens, dims = num_tokens.double(), self.dec_proj.out_features
        ffn_macs = linear_macs(self.layers[0].ffn)
        layers = encoder_macs(num_tokens + self.num_classes, dims, ffn_macs, len(self.layers))
        projections = num_tokens * (self.dec_proj.weight.numel() + dims**2) + self.num_classes * dims**2
        detail: Tensor | int = 0
        if layout is not None:
            detail = detail_macs(self.detail, active_slots(layout.decisions, layout.tiling), layout.tiling)
        return layers + projections + num_tokens * self.num_classes * dims + detail

    def _compare(self, patches: Tensor, lengths: list[int], classes: Tensor) -> Tensor:
        """Scores of tokens against their image's classes (B, K, C), (T, C) -> (T, K)."""
        images = F.normalize(self.patch_proj(patches), dim=-1).split(lengths)
        return self.mask_norm(torch.cat([x @ y.T for x, y in zip(images, classes, strict=True)]))


def _sequences(lengths: list[int], device: torch.device) -> PackedSequences:
    """One sequence per image."""
    counts = torch.tensor(lengths, device=device)
    return PackedSequences(lengths, torch.arange(len(lengths), device=device).repeat_interleave(counts))
