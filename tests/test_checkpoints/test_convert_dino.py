"""DINOv2 with registers and DINOv3, by timm's names and the authors': features of timm's models, fine and coarse."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from timm.layers import LayerNorm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from msvit_mm.checkpoints import describe_backbone, fit_weights, rename_keys

SIZE = (64, 96)
DINOV3 = dict(
    rope_type='dinov3',
    rope_temperature=100,
    rope_rotate_half=True,
    use_rot_pos_emb=True,
    use_abs_pos_emb=False,
    num_reg_tokens=4,
    use_fc_norm=False,
    init_values=0.1,
    dynamic_img_size=True,
    norm_layer=partial(LayerNorm, eps=1e-5),
)


@pytest.fixture
def make_dinov3(perturb):
    def make(**words):
        sizes = dict(img_size=SIZE, patch_size=16, embed_dim=64, depth=2, num_heads=1, mlp_ratio=2, num_classes=0)
        return perturb(Eva(**sizes | DINOV3 | words)).eval()

    return make


def convert(weights, **words):
    """As the tool does without a config: the backbone from the weights alone."""
    conversion = rename_keys(weights)
    words = describe_backbone(conversion, **words)
    model = MODELS.build(dict(type='MSViT', **words)).eval()
    fit_weights(conversion, model, model.patch_resolution)
    missing, unexpected = model.load_state_dict(conversion.state_dict, strict=False)
    assert missing == conversion.missing and not unexpected
    return model, conversion


def authors_names(weights):
    """The names of DINOv3's authors for timm's: biases of query, key and value in one, and which of them count."""
    renamed = {}
    for key, x in weights.items():
        key = key.replace('reg_token', 'storage_tokens').replace('gamma_1', 'ls1.gamma').replace('gamma_2', 'ls2.gamma')
        if 'blocks.0.mlp.fc1_g.weight' in weights:
            key = key.replace('mlp.fc1_g', 'mlp.w1').replace('mlp.fc1_x', 'mlp.w2').replace('mlp.fc2', 'mlp.w3')
        if key.endswith('q_bias'):
            base, value = key.removesuffix('q_bias'), weights[key.replace('q_bias', 'v_bias')]
            renamed[f'{base}qkv.bias'] = torch.cat([x, torch.full_like(x, torch.nan), value])
            renamed[f'{base}qkv.bias_mask'] = torch.cat([torch.ones_like(x), torch.zeros_like(x), torch.ones_like(x)])
        elif not key.endswith('v_bias'):
            renamed[key] = x
    return renamed | {'rope_embed.periods': torch.ones(4), 'mask_token': torch.zeros(1, 64)}


def check_fine_and_coarse(model, source, sizes):
    """All fine is the source; all coarse the source on the half-size image, where whole regions cover it."""
    for size in sizes:
        images = torch.randn(2, 3, *size)
        tiling = model.tile(size)
        with torch.no_grad():
            wanted = source.forward_features(images)[:, source.num_prefix_tokens :]
            fine = model(images, torch.zeros(2, tiling.rows, tiling.cols))[0].flatten(2).mT
            torch.testing.assert_close(fine, wanted, atol=1e-5, rtol=1e-5)
            twin = model.dense_twin(size).eval()(images)[0].flatten(2).mT
            torch.testing.assert_close(twin, wanted, atol=1e-5, rtol=1e-5)
            if not (size[0] % 32 or size[1] % 32):
                wanted = source.forward_features(F.avg_pool2d(images, 2))[:, source.num_prefix_tokens :]
                coarse = model(images, torch.ones(2, tiling.rows, tiling.cols))[0][:, :, ::2, ::2].flatten(2).mT
                torch.testing.assert_close(coarse, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('names', ['timm', 'authors'])
@pytest.mark.parametrize(
    'words', [dict(qkv_bias=True), dict(qkv_bias=False), dict(swiglu_mlp=True, swiglu_align_to=8)], ids=str
)
def test_dinov3(make_dinov3, words, names):
    source = make_dinov3(**words)
    weights = source.state_dict()
    model, conversion = convert(authors_names(weights) if names == 'authors' else weights)
    assert conversion.family == 'timm' and model.rope == dict(temperature=100.0) and model.num_registers == 4
    check_fine_and_coarse(model, source, [(64, 96), (96, 64), (48, 80)])


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'vit_small_plus_patch16_dinov3',
        *(f'vit_{x}_patch16_dinov3' for x in ('small', 'base', 'large')),
    ],
)
def test_published_dinov3(name):
    source = timm.create_model(name, pretrained=False, num_classes=0).eval()
    model, _ = convert(source.state_dict())
    check_fine_and_coarse(model, source, [(64, 96)])


def test_dinov2_with_registers_by_the_authors_names(perturb):
    words = dict(img_size=56, patch_size=14, embed_dim=192, depth=2, num_heads=3, mlp_ratio=4, init_values=0.1)
    source = perturb(VisionTransformer(reg_tokens=4, no_embed_class=True, num_classes=0, **words)).eval()
    weights = source.state_dict()
    position = torch.randn(1, 1, 192)
    weights['register_tokens'] = weights.pop('reg_token')
    weights['cls_token'] = weights['cls_token'] - position  # the authors add it, timm has added it
    weights['pos_embed'] = torch.cat([position, weights['pos_embed']], dim=1)
    arch = dict(embed_dims=192, num_layers=2, num_heads=3, feedforward_channels=768)
    conversion = rename_keys(weights)
    described = describe_backbone(conversion, 14, arch) | dict(gate=dict(type='ScaleGate', sample_size=14))
    model = MODELS.build(dict(type='MSViT', coarse_patch_size=28, **described)).eval()
    fit_weights(conversion, model, model.patch_resolution)
    model.load_state_dict(conversion.state_dict, strict=False)
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        wanted = source.forward_features(images)[:, 5:]
        torch.testing.assert_close(model(images, torch.zeros(2, 2, 2))[0].flatten(2).mT, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (
            dict(rope=None, num_registers=4),
            'pos_embed: wanted weights of a position embedding, .* got rotary positions',
        ),
        (dict(num_registers=2), r'registers: wanted 2, as the backbone has \(num_registers\), got 4'),
    ],
)
def test_weights_of_another_kind(make_dinov3, words, message):
    conversion = rename_keys(make_dinov3().state_dict())
    model = MODELS.build(dict(type='MSViT', **describe_backbone(conversion) | words))
    with pytest.raises(ValueError, match=message):
        fit_weights(conversion, model, model.patch_resolution)
    fit = MODELS.build(dict(type='MSViT', **describe_backbone(conversion)))
    message = message.replace('weights', 'the weights').split(', as')[0].split(', .*')[0]
    with pytest.raises(ValueError, match=message.replace('weights of', 'weights of a network of')):
        model.load_state_dict(fit.state_dict(), strict=False)
