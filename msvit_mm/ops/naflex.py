"""Mixed-scale patches for models of timm's NaFlexVit kind, which take patches instead of images."""

import torch
from torch import Tensor

from .checks import check_batch, check_maps
from .packing import Packing
from .tiling import Maps, Tiling, active_slots, as_maps, gather_patches, pad_to_regions, position_table


def to_naflex(images: Tensor, decisions: Maps, patch_sizes: tuple[int, ...] = (16, 32)) -> dict[str, Tensor]:
    """The active patches of images as a batch of equally long lists, for ``NaFlexVit`` and its kind.

    Args:
        images: Normalised images of any size, shape (B, 3, H, W).
        decisions: 1 = coarse, 0 = fine, shape (B, rows, cols), per scale but the smallest.
        patch_sizes: Sides of the patches in pixels, ascending.

    Returns:
        ``patches``: coarse ones shrunk to the size of fine ones, channels last, shape (B, N, p * p * 3), zeros behind
        an image's own. ``patch_coord``: (y, x) of their centres in fine patches, the first fine one being at (0, 0), so
        that a coarse one lies between integers, shape (B, N, 2). ``patch_valid``: which are patches, boolean (B, N).

    Raises:
        ValueError: If images, decisions or patch sizes have the wrong shape, type or values.

    Example:
        >>> patches = to_naflex(torch.rand(1, 3, 32, 64), torch.tensor([[[1.0, 0.0]]]))
        >>> patches['patches'].shape, patches['patch_coord'][0].tolist()
        (torch.Size([1, 5, 768]), [[0.5, 0.5], [0.0, 2.0], [0.0, 3.0], [1.0, 2.0], [1.0, 3.0]])
    """
    check_batch(images, 3)
    tiling = Tiling(images.shape[-2], images.shape[-1], tuple(patch_sizes))
    wanted = as_maps([images.new_empty(len(images), scale.rows, scale.cols) for scale in tiling.scales[:-1]])
    active = Packing.select(active_slots(check_maps(decisions, wanted), tiling).flatten(1))
    patches = gather_patches(pad_to_regions(images, tiling.region_size), tiling, active)
    ys, xs = (torch.arange(n, device=images.device, dtype=images.dtype) for n in (tiling.cell_rows, tiling.cell_cols))
    cells = torch.stack(torch.meshgrid(ys, xs, indexing='ij'), dim=-1).flatten(0, 1)  # (h * w, 2)
    centres = position_table(cells[None], tiling).flatten(0, 2)[active.index % active.shape[1]]
    lengths = torch.tensor(active.lengths, device=images.device)
    valid = torch.arange(int(lengths.max()), device=images.device) < lengths[:, None]
    rows = Packing.select(valid)
    flat = patches.permute(0, 2, 3, 1).flatten(1)  # (T, 3, p, p) -> (T, p * p * 3)
    return dict(patches=rows.unpack(flat), patch_coord=rows.unpack(centres), patch_valid=valid)
