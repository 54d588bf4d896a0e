"""A Swin transformer of timm, its authors or a host gives MSSwin the maps that it has, with all regions fine."""

import re

import pytest
import timm
import torch
from mmengine.registry import MODELS
from mmseg.models.backbones import SwinTransformer as SegSwinTransformer
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from msvit_mm.checkpoints import describe_backbone, fit_weights, rename_keys
from msvit_mm.checkpoints.starting import CheckedPretrained

ARCH = dict(embed_dims=24, depths=[2, 1, 2, 1], num_heads=[1, 2, 3, 4])
WORDS = dict(arch=ARCH, window_size=4, img_size=(128, 128), out_indices=(0, 1, 2, 3), gate=dict(type='ScaleGate'))


@pytest.fixture(scope='module')
def images():
    return torch.randn(1, 3, 160, 192, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def make_swin(perturb):
    def make(cls=SwinTransformer, **words):
        sizes = dict(img_size=(160, 192), embed_dim=24, depths=(2, 1, 2, 1), num_heads=(1, 2, 3, 4), window_size=4)
        return perturb(cls(**sizes | dict(num_classes=5, mlp_ratio=4.0) | words)).eval()

    return make


def authors_names(weights):
    """timm's weights as the authors save them: merging ends a stage, and what windows say is there, too."""
    names = {}
    for key, x in weights.items():
        key = re.sub(r'layers\.(\d)\.downsample', lambda match: f'layers.{int(match[1]) - 1}.downsample', key)
        names[key.replace('head.fc.', 'head.')] = x
    return names | {
        'layers.0.blocks.1.attn_mask': torch.zeros(4, 16, 16),
        'layers.0.blocks.1.attn.relative_position_index': torch.zeros(16, 16),
    }


def maps_of(source, images):
    """Maps of timm's stages, the last as normalised for its head, the others as MSSwin's first norms do it."""
    with torch.no_grad():
        x = source.patch_embed(images)
        maps = [x := layer(x) for layer in source.layers]
        maps = [F.layer_norm(x, x.shape[-1:]) for x in maps[:-1]] + [source.norm(maps[-1])]
        return [x.permute(0, 3, 1, 2) for x in maps]


def check_same_maps(model, source, images):
    with torch.no_grad():
        for x, wanted in zip(model.eval()(images, model.dense_decisions(images)), maps_of(source, images), strict=True):
            torch.testing.assert_close(x, wanted, atol=1e-5, rtol=1e-5)


def convert(weights, prefix=None, **words):
    """Convert and load, as strictly as the result promises: only the gate may be missing."""
    conversion = rename_keys(weights, prefix)
    model = MODELS.build(dict(type='MSSwin') | (words or describe_backbone(conversion)))
    fit_weights(conversion, model, None)
    missing, unexpected = model.load_state_dict(conversion.state_dict, strict=False)
    assert missing == conversion.missing and all(key.startswith('gate.') for key in missing) and not unexpected
    return model, conversion


@pytest.mark.parametrize(('family', 'prefix'), [('timm Swin', ''), ('Swin', 'module.'), ('Swin', 'backbone.')])
def test_swin(make_swin, images, family, prefix):
    source = make_swin()
    weights = authors_names(source.state_dict()) if family == 'Swin' else source.state_dict()
    model, conversion = convert({f'{prefix}{key}': x for key, x in weights.items()}, **WORDS)
    assert conversion.family == family and not conversion.resampled
    assert set(conversion.dropped.values()) <= {'a head', 'computed from the windows'}
    assert len(conversion.renamed) + len(conversion.dropped) == len(weights)
    check_same_maps(model, source, images)


def test_three_stages(make_swin, images):
    source = make_swin(depths=(2, 1, 2), num_heads=(1, 2, 3), num_classes=0)
    for weights in (source.state_dict(), authors_names(source.state_dict())):
        conversion = rename_keys(weights)
        assert describe_backbone(conversion) == dict(
            arch=dict(embed_dims=24, depths=[2, 1, 2], num_heads=[1, 2, 3]),
            img_size=(64, 64),
            patch_size=4,
            region_size=16,
            window_size=4,
            out_indices=(2,),
        )
        model, _ = convert(weights, **describe_backbone(conversion) | dict(out_indices=(0, 1, 2)))
        check_same_maps(model, source, images)


@pytest.mark.parametrize('cls', [SegSwinTransformer, None], ids=['mmseg', 'MSSwin'])
def test_names_of_the_hosts(perturb, images, cls):
    words = dict(embed_dims=24, depths=(2, 1, 2, 1), num_heads=(1, 2, 3, 4), window_size=4, drop_path_rate=0.0)
    source = perturb(cls(**words) if cls else MODELS.build(dict(type='MSSwin', **WORDS)))
    source.eval()
    weights = {f'backbone.{key}': x for key, x in source.state_dict().items()}
    model, conversion = convert(weights | {'decode_head.conv_seg.bias': torch.zeros(2)}, **WORDS)
    assert conversion.family == 'mmpretrain Swin'
    model.eval()
    with torch.no_grad():
        decisions = model.dense_decisions(images)
        wanted = source(images) if cls else source(images, decisions)
        for x, y in zip(model(images, decisions), wanted, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_norms_go_with_the_maps_that_are_returned(make_swin):
    weights = authors_names(make_swin().state_dict())
    model, conversion = convert(weights, **WORDS | dict(out_indices=(0, 2)))
    assert conversion.dropped['norm.weight'] == 'norm of a map that the backbone does not return'
    assert 'norm2.bias as it begins: a classifier has none' in conversion.filled
    own = {f'norm{i}.weight': torch.full((24 * 2**i,), 2.0 + i) for i in range(4)}  # of the authors' segmentors
    own |= {key.replace('weight', 'bias'): x for key, x in own.items()}
    model, conversion = convert({key: x for key, x in weights.items() if not key.startswith('norm.')} | own)
    assert model.out_indices == (0, 1, 2, 3)
    assert (model.norm1.weight == 3).all() and (model.norm3.bias == 5).all()


def test_biases_of_other_windows_are_resized_as_on_loading(make_swin):
    source = make_swin().state_dict()
    model, conversion = convert(source, **WORDS | dict(window_size=7))
    assert len(conversion.resampled) == 6 and conversion.resampled[0].endswith('windows of 4 to 7 cells')
    assert 'resampled   stages.*.blocks.*.attn.w_msa.relative_position_bias_table, windows of' in (
        conversion.format_report()
    )
    loaded = MODELS.build(dict(type='MSSwin', **WORDS | dict(window_size=7)))
    loaded.load_state_dict(rename_keys(source).state_dict, strict=False)
    key = 'stages.2.blocks.1.attn.w_msa.relative_position_bias_table'
    assert len(loaded.state_dict()[key]) == 169 and loaded.state_dict()[key].equal(model.state_dict()[key])


def test_report(make_swin):
    _, conversion = convert(authors_names(make_swin().state_dict()), **WORDS)
    report = conversion.format_report()
    for line in (
        'family      Swin',
        'renamed     layers.*.blocks.*.mlp.fc1.weight -> stages.*.blocks.*.ffn.layers.0.0.weight (6)',
        'renamed     layers.*.downsample.reduction.weight -> stages.*.downsample.reduction.weight (3)',
        'renamed     norm.weight -> norm3.weight',
        'resampled   none',
        "filled      stages.*.downsample.norm.bias in the host's order of siblings (3)",
        'dropped     layers.*.blocks.*.attn_mask (computed from the windows)',
    ):
        assert line in report


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(depths=(2, 1, 1, 1)), r'keys 13 missing: stages.2.blocks.1.norm1.weight'),
        (dict(depths=(2, 2, 2, 1)), r'keys 13 unexpected: stages.1.blocks.1.norm1.weight'),
        (dict(embed_dim=48), r'patch_embed.projection.weight: wanted \(24, 3, 4, 4\), got \(48, 3, 4, 4\)'),
        (dict(num_heads=(2, 2, 3, 4)), r'relative_position_bias_table: wanted \(49, 1\), got \(49, 2\)'),
        (dict(mlp_ratio=2.0), r'ffn.layers.0.0.weight: wanted \(96, 24\), got \(48, 24\)'),
        (dict(window_size=(4, 2)), r'wanted the offsets of a square window, got shape \(21, 1\)'),
        (dict(cls=SwinTransformerV2), r'wanted a Swin V1, .* got a Swin V2: layers.0.blocks.0.attn.logit_scale'),
        (dict(qkv_bias=False), r'6 missing: stages.0.blocks.0.attn.w_msa.qkv.bias'),
    ],
)
def test_another_swin(make_swin, changes, message):
    with pytest.raises(ValueError, match=message):
        convert(make_swin(**changes).state_dict(), **WORDS)


def test_damaged_merging(make_swin):
    weights = make_swin().state_dict()
    with pytest.raises(ValueError, match='downsample: wanted the channels of 2 x 2 merged cells, got 95'):
        rename_keys(weights | {'layers.1.downsample.norm.weight': torch.zeros(95)})
    with pytest.raises(ValueError, match='no rule of timm Swin explains 1 of .*: layers.0.downsample.norm.weight'):
        rename_keys(weights | {'layers.0.downsample.norm.weight': torch.zeros(96)})
    key = 'layers.3.blocks.0.attn.relative_position_bias_table'
    with pytest.raises(ValueError, match=r'wanted one of shape \(offsets, heads\) in each of 4 stages'):
        describe_backbone(rename_keys({name: x for name, x in weights.items() if name != key}))


def test_init_cfg(make_swin, images, tmp_path):
    source, path = make_swin(), str(tmp_path / 'swin.pth')
    torch.save(dict(model=authors_names(source.state_dict()), epoch=299), path)
    model = MODELS.build(dict(type='MSSwin', **WORDS))
    with pytest.raises(
        ValueError, match=r'wanted some of .* The file holds weights of Swin: add convert=True to init_cfg'
    ):
        CheckedPretrained(path)(model)
    CheckedPretrained(path, convert=True)(model)
    check_same_maps(model, source, images)
    CheckedPretrained(path, convert=True)(MODELS.build(dict(type='MSSwin', **WORDS | dict(window_size=7))))
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    vit = MODELS.build(dict(type='MSViT', arch=arch, img_size=64))
    with pytest.raises(
        ValueError, match=r"init_cfg '.*swin.pth': wanted weights of timm .* for MSViT, got those of Swin"
    ):
        CheckedPretrained(path, convert=True)(vit)
    torch.save(VisionTransformer(img_size=64, embed_dim=24, depth=2, num_heads=2).state_dict(), path)
    with pytest.raises(ValueError, match='wanted weights of Swin or timm Swin .* for MSSwin, got those of timm'):
        CheckedPretrained(path, convert=True)(model)
    with pytest.raises(ValueError, match='wanted whole parts of MSSwin, (?!.*convert=True)'):  # would not help
        CheckedPretrained(path)(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'arch', 'window_size'),
    [
        ('swin_tiny_patch4_window7_224', 'tiny', 7),
        ('swin_small_patch4_window7_224', 'small', 7),
        ('swin_base_patch4_window12_384', 'base', 12),
    ],
)
def test_published_swin(name, arch, window_size):
    source = timm.create_model(name, pretrained=False).eval()
    size = (32 * window_size, 32 * window_size)
    weights = authors_names(source.state_dict())
    words = dict(arch=arch, img_size=size, patch_size=4, region_size=32, window_size=window_size)
    assert describe_backbone(rename_keys(weights)) == words | dict(out_indices=(3,))
    model, _ = convert(weights, **words, out_indices=(0, 1, 2, 3))
    check_same_maps(model, source, torch.randn(1, 3, *size))
