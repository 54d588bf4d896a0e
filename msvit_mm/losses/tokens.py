"""What tokens are taught by label maps: the share of each class among the pixels that they cover."""

import torch.nn.functional as F
from torch import Tensor


def token_loss(
    logits: Tensor, token_of_cell: Tensor, labels: Tensor, patch_size: int, ignore_index: int = 255
) -> Tensor:
    """Cross entropy of tokens against the classes of their pixels, mean over the tokens that have any.

    Args:
        logits: Class scores of T tokens, shape (T, classes).
        token_of_cell: Which of them covers each cell, -1 where none does, integers, shape (B, h, w).
        labels: Classes of the pixels, integers, shape (B, H, W).
        patch_size: Side of a cell in pixels.
        ignore_index: Label of pixels that count for nothing.

    Returns:
        A scalar; 0 if no token has a labelled pixel.

    Example:
        >>> import torch
        >>> token_of_cell, labels = torch.tensor([[[0, 0, 1]]]), torch.tensor([[[0, 1, 255]]])
        >>> token_loss(torch.zeros(2, 2), token_of_cell, labels, patch_size=1)  # token 1 has no label
        tensor(0.6931)
    """
    num_tokens, num_classes = logits.shape
    height, width = labels.shape[1:]
    token = token_of_cell.repeat_interleave(patch_size, 1).repeat_interleave(patch_size, 2)[:, :height, :width]
    counted = (token >= 0) & (labels != ignore_index)
    pixels = (token * num_classes + labels)[counted].bincount(minlength=num_tokens * num_classes)
    pixels = pixels.view(num_tokens, num_classes).float()
    total = pixels.sum(1, keepdim=True)
    losses = F.cross_entropy(logits.float(), pixels / total.clamp(min=1), reduction='none')
    return losses.sum() / (total > 0).sum().clamp(min=1)
