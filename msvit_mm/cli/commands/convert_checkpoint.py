"""Convert weights of a plain or a Swin transformer, whoever saved them, into those of MSViT or MSSwin.

msvit convert-checkpoint deit_small_patch16_224.pth deit-small.pth --img-size 512

Plain ones of timm, DeiT, DINOv2, DINOv3, mmseg and mmpretrain; Swin V1 of timm, of its authors and of the hosts. PVTv2,
timm's or its authors', becomes a DynamicTokenRoutingTransformer.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from mmengine.registry import MODELS

from ...backbones import registered_backbones
from ...checkpoints import (
    Conversion,
    carry_metadata,
    check_checkpoint_name,
    check_new,
    checkpoint_bytes,
    describe_backbone,
    fit_weights,
    load_weights_safely,
    rename_keys,
    write_files,
)
from ...datasets.configs import type_name
from ..config import load_config
from ..config_checks import check_model
from ..errors import foreign_errors, one_line_errors

NOTES = {
    'mmseg': "not in the file: LayerNorm's epsilon (mmseg's default is 1e-5, MSViT's 1e-6: norm_cfg), with_cls_token"
}


def target_config(args: Namespace, conversion: Conversion) -> dict[str, Any]:
    """The backbone's config from ``--config``, else from the weights; single options override it.

    Raises:
        ValueError: If the config has no backbone of the kind that the weights are for, the weights' sizes and
            ``--arch`` leave it open, or an option has no meaning for it.
    """
    given = dict(img_size=args.img_size, patch_size=args.patch_size, coarse_patch_size=args.coarse_patch_size)
    given |= dict(patch_sizes=args.patch_sizes)
    given = {name: value for name, value in given.items() if value is not None}
    if args.patch_sizes and len(args.patch_sizes) < 2:
        raise ValueError(f'--patch-sizes: wanted those of at least 2 scales, got {args.patch_sizes[0]} alone.')
    if args.patch_sizes and given.keys() & {'patch_size', 'coarse_patch_size'}:
        raise ValueError('--patch-sizes: wanted no further patch size beside, got some.')
    wanted = next(name for name, cls in registered_backbones().items() if conversion.family in cls.weight_families)
    if conversion.is_pyramid and given.keys() - {'img_size'}:
        raise ValueError(f'weights of {conversion.family}: wanted no patch sizes, got some.')
    if args.source_grid and 'pos_embed' not in conversion.state_dict:
        raise ValueError(f'--source-grid: wanted weights with position embeddings, got {conversion.family} without.')
    if len(given.get('img_size', (0,))) > 2:
        raise ValueError(f'--img-size: wanted H or H W, got {args.img_size}.')
    if 'img_size' in given:
        given['img_size'] = (args.img_size * 2)[:2]
    if args.config:
        cfg = load_config(args.config)
        check_model(cfg)
        backbone = dict((cfg.get('model') or {}).get('backbone') or {})
        if type_name(backbone) != wanted:
            raise ValueError(
                f"config '{args.config}': wanted a model.backbone of type {wanted}, got {backbone.get('type')}."
            )
        return backbone | given | dict(init_cfg=None)
    patch_size = (args.patch_sizes or [args.patch_size or 16])[0]
    words = describe_backbone(conversion, patch_size, args.arch, args.source_grid)
    if conversion.is_pyramid:
        return dict(type=wanted, **words) | given
    words = dict(type=wanted, **words, coarse_patch_size=2 * words['patch_size']) | given
    if (args.patch_sizes or [0, words['coarse_patch_size']])[1] % 16:  # the gate's sample size by default
        words |= dict(gate=dict(type='ScaleGate', sample_size=words['patch_size']))
    return words


def main(args: Namespace) -> None:
    target = Path(args.target)
    with one_line_errors():
        check_checkpoint_name(target)
        check_new([target], args.overwrite, [args.source, args.config])
        weights, entry = load_weights_safely(args.source)
        conversion = rename_keys(weights, args.prefix)
        config = target_config(args, conversion)
        with foreign_errors('backbone'):
            backbone = MODELS.build(config)
        grid = None if conversion.is_pyramid else backbone.patch_resolution
        fit_weights(conversion, backbone, grid, args.source_grid)

    meta = dict(source=Path(args.source).name, entry=entry, family=conversion.family, report=conversion.report())
    with one_line_errors():
        weights = carry_metadata(conversion.state_dict, backbone.state_dict())
        write_files({target: checkpoint_bytes(dict(state_dict=weights, meta=meta))})
    print(f'source      {args.source}' + (f", entry '{entry}'" if entry else ''))
    print(conversion.format_report())
    if conversion.family in NOTES:
        print(f'note        {NOTES[conversion.family]}')
    if not args.config:
        print(f'backbone    {config}')
    print(f'written     {target}')
