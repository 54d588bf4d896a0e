"""What is a Swin's own; the other laws of MSSwin are proved in ``tests/conformance``."""

import math

import pytest
import torch
import torch.nn.functional as F
from conformance.cases import close, gradients, perturb, random_images, run, task_loss, varied_decisions
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import resize_pos_embed
from mmseg.structures import SegDataSample

from msvit_mm.backbones import MSSwin
from msvit_mm.backbones.swin_layers import layer_of
from msvit_mm.backbones.swin_windows import Windows
from msvit_mm.checkpoints.starting import CheckedPretrained
from msvit_mm.ops.tiling import shrink

ARCH = dict(embed_dims=8, depths=[2, 1, 2, 1], num_heads=[1, 2, 2, 4])
WORDS = dict(arch=ARCH, out_indices=(0, 1, 2, 3), drop_path_rate=0.0)
FIXED = dict(type='FixedGate', scale='fine')


def build(**words):
    return perturb(MSSwin(**WORDS | dict(gate=FIXED) | words), 0.2).double().eval()


def host_of(backbone, **words):
    """mmpretrain's own network with these weights."""
    host = SwinTransformer(**WORDS | words).double()
    host.load_state_dict(backbone.state_dict())
    host.eval()
    return host


def check_all_fine_is_the_host(sizes, region_size, **words):
    backbone = build(region_size=region_size, **words)
    host = host_of(backbone, **words)
    for size in sizes:
        images = random_images(size, 2)
        with torch.no_grad():
            close(run(backbone, images, backbone.dense_decisions(images))[0], host(images), f'{size}')


@pytest.mark.parametrize(('window_size', 'padded', 'region_size'), [(7, True, 64), (7, True, 32), (3, False, 64)])
def test_all_fine_is_the_host(window_size, padded, region_size):
    sizes = [(65, 97), (71, 90), (131, 99), (143, 150), (133, 201), (97, 300)]
    check_all_fine_is_the_host(sizes, region_size, window_size=window_size, pad_small_map=padded)


def test_a_map_as_small_as_a_window_has_no_shift():
    """As in the host, where it is not padded: a row or a column of windows, or one alone."""
    words = dict(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2]), out_indices=(0, 1), window_size=4)
    check_all_fine_is_the_host([(32, 45), (32, 32), (30, 64), (31, 29)], 8, **words)


def test_without_biases_of_the_projection_padded_cells_are_zero_keys():
    """As in the host; for counterfactual tokens as for those of the reference."""
    words = dict(arch=dict(embed_dims=8, depths=[2], num_heads=[2]), out_indices=(0,), pad_small_map=True)
    words['stage_cfgs'] = dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=False)))
    check_all_fine_is_the_host([(30, 41)], 8, **words)
    backbone = build(region_size=8, gate=dict(type='ScaleGate', sample_size=8), counterfactual_share=1.0, **words)
    found = []
    for execution in ('counterfactual', 'masked'):
        features, _ = run(backbone, random_images((30, 41), 2), None, execution, training=True)
        found.append(gradients(task_loss(features), backbone.gate))
    assert all(x.any() for x in found[0].values())
    close(*found)


@pytest.mark.parametrize(('window_size', 'positions'), [(8, True), (12, False)])
def test_all_coarse_is_the_host_with_half_the_windows_on_half_the_image(window_size, positions):
    """Positions are the means over the cells of a token."""
    height, width = size = (32 * window_size, 64 * window_size)
    words = dict(use_abs_pos_embed=positions)
    backbone = build(region_size=64, window_size=window_size, img_size=size, **words)
    state = backbone.state_dict()
    side = 2 * window_size - 1
    for key, x in state.items():
        if key.endswith('bias_table'):
            state[key] = x.unflatten(0, (side, side))[1:-1:2, 1:-1:2].flatten(0, 1)
    if positions:
        cells = state['absolute_pos_embed'].mT.unflatten(2, (height // 4, width // 4))
        state['absolute_pos_embed'] = F.avg_pool2d(cells, 2).flatten(2).mT
    half = SwinTransformer(**WORDS, window_size=window_size // 2, img_size=(height // 2, width // 2), **words).double()
    half.load_state_dict({key: x for key, x in state.items() if not key.endswith('_index')}, strict=False)
    half.eval()
    images = random_images(size, 1)
    with torch.no_grad():
        wanted = half(shrink(images, 2))
    coarse = 1 - backbone.dense_decisions(images)
    for x, y in zip(run(backbone, images, coarse)[0], wanted, strict=True):
        close(x[..., ::2, ::2], y)
        close(x[..., 1::2, 1::2], y)


def test_the_last_token_of_a_coarse_region_comes_from_four_copies():
    backbone, images = build(region_size=32, pad_small_map=True), random_images((64, 97), 1)
    seen = {}
    last = backbone.stages[2]
    last.blocks[-1].ffn.register_forward_hook(lambda module, args, x: seen.update(before=x))
    backbone.stages[3].blocks[0].norm1.register_forward_pre_hook(lambda module, args: seen.update(after=args[0]))
    run(backbone, images, 1 - backbone.dense_decisions(images))
    merging = last.downsample
    copies = seen['before'].repeat_interleave(4, dim=1)  # channels before siblings
    with torch.no_grad():
        wanted = merging.reduction(merging.norm(copies))
    assert len(wanted) == 2 * 4
    distances = torch.cdist(seen['after'], wanted)
    assert distances.min(1).values.max() < 1e-9 and distances.argmin(1).unique().numel() == 8


def attend_by_hand(block, grid, corners, x, proportional):
    """Attention of one image's tokens as the text says it: by loops over queries and keys, (T, C) -> (T, C).

    Proportional: a coarse key has log 4 more, also where the border cuts it to fewer cells.
    """
    attn, layer = block.attn.w_msa, layer_of(block, grid.size)
    size, heads = layer.size, attn.num_heads
    table = attn.relative_position_bias_table.unflatten(0, (2 * size - 1, 2 * size - 1))

    def window(y, x):
        return tuple((z + size - layer.shift) // size if layer.shift else z // size for z in (y, x))

    def bias(dy, dx):  # mean of the trained ones around an offset in cells
        dy, dx = (min(max(z, 1 - size), size - 1) + size - 1 for z in (dy, dx))
        ys, xs = ({math.floor(z), math.ceil(z)} for z in (dy, dx))
        return torch.stack([table[i, j] for i in ys for j in xs]).mean(0)

    qkv = attn.qkv(x).unflatten(-1, (3, heads, -1))
    content = attn.qkv.bias.unflatten(0, (3, heads, -1))
    keys = [(y, x, span, qkv[i, 1], qkv[i, 2]) for i, (y, x, span) in enumerate(corners)]
    rows, cols = (-(-n // size) * size for n in grid.size)
    outside = ((y, x) for y in range(rows) for x in range(cols) if y >= grid.size[0] or x >= grid.size[1])
    keys += [(y, x, 1, content[1], content[2]) for y, x in outside]
    outputs = []
    for i, (y, x, span) in enumerate(corners):
        own = [key for key in keys if window(*key[:2]) == window(y, x)]
        scores = [
            (qkv[i, 0] * k).sum(-1) * attn.scale
            + bias(y + span / 2 - v - s / 2, x + span / 2 - u - s / 2)
            + proportional * math.log(s**2)
            for v, u, s, k, _ in own
        ]
        weights = torch.stack(scores).softmax(0)  # (keys, heads)
        outputs.append((weights.unsqueeze(-1) * torch.stack([key[4] for key in own])).sum(0).flatten())
    return attn.proj(torch.stack(outputs))


@pytest.mark.parametrize(('index', 'proportional'), [(0, False), (1, False), (1, True)])
def test_attention_is_what_loops_say(index, proportional):
    """Unshifted and shifted, with windows that tokens straddle and that the border pads."""
    words = dict(arch=dict(embed_dims=8, depths=[2], num_heads=[2]), out_indices=(0,))
    backbone = build(region_size=8, proportional_attention=proportional, **words)
    block, images = backbone.stages[0].blocks[index], random_images((30, 41), 1)
    coarse = backbone.random_decisions(0.5, images, torch.Generator().manual_seed(0)).bool()
    (tokens,) = backbone.tokens_of(~coarse, coarse, (30, 41))
    assert {1, 2} == set(tokens.corner[2].tolist())
    seen = {}
    block.norm1.register_forward_hook(lambda module, args, x: seen.update(x=x))
    block.attn.w_msa.proj.register_forward_hook(lambda module, args, y: seen.update(y=y))
    run(backbone, images, coarse.double())
    windows = Windows.of(tokens, layer_of(block, tokens.grid.size))
    with torch.no_grad():
        corners, (x, y) = tokens.corner.T.tolist(), (windows.put_back(seen[name]) for name in 'xy')
        assert any(col + span > tokens.grid.size[1] for _, col, span in corners)
        close(y, attend_by_hand(block, tokens.grid, corners, x, proportional))


def test_a_region_changes_its_windows_alone():
    """One unshifted block: what another region holds is felt nowhere but in the windows that it touches."""
    words = dict(arch=dict(embed_dims=8, depths=[1], num_heads=[2]), out_indices=(0,), window_size=8)
    backbone, images = build(region_size=8, **words), random_images((64, 96), 1)
    decisions = backbone.random_decisions(0.5, images, torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[..., 8:16, 40:48] += 1
    moved = (run(backbone, images, decisions)[0][0] != run(backbone, changed, decisions)[0][0]).any(1)[0]
    assert moved[:8, 8:16].all() and moved.sum() == 64


@pytest.mark.parametrize('region_size', [32, 64])
def test_every_cell_is_covered_once(region_size):
    """In every stage, by a token inside the image; and each stage has as many as the regions say."""
    backbone = build(region_size=region_size, pad_small_map=True)
    for size in ((64, 96), (71, 133), (33, 250)):
        images = random_images(size, 5)
        decisions = varied_decisions(backbone, images)
        costs = backbone.costs_of(decisions, size)
        stages = backbone.tokens_of(~decisions.bool(), decisions.bool(), size)
        for i, tokens in enumerate(stages):
            (rows, cols), side = tokens.grid.size, tokens.grid.stride
            covered = torch.zeros(5, rows + 1, cols + 1)
            for image, (y, x, span) in zip(tokens.image.tolist(), tokens.corner.T.tolist(), strict=True):
                assert y < rows and x < cols
                covered[image, y : y + span, x : x + span] += 1
            assert (covered[:, :rows, :cols] == 1).all()
            counts = [0] * 5
            for image, top, left in torch.cartesian_prod(*(torch.arange(n) for n in decisions.shape)).tolist():
                own = side * (2 if decisions[image, top, left] and 2 * side <= region_size else 1)
                counts[image] += math.prod(
                    -(-min(region_size, n - region_size * at) // own) for n, at in zip(size, (top, left), strict=True)
                )
            assert costs.num_tokens[sum(ARCH['depths'][:i])].tolist() == counts


def test_keys_are_the_hosts_and_old_files_load():
    backbone = MSSwin(**WORDS, gate=dict(type='ScaleGate'))
    host = SwinTransformer(**WORDS)
    own = [key for key in backbone.state_dict() if not key.startswith('gate.')]
    assert own == list(host.state_dict())
    old = {key.replace('norm3.', 'norm.'): x for key, x in host.state_dict().items()}
    old['stages.0.blocks.1.attn.attn_mask'] = torch.zeros(4, 49, 49)
    missing, unexpected = backbone.load_state_dict(old, strict=False)
    assert not unexpected and all(key.startswith('gate.') for key in missing)
    assert backbone.norm3.weight.equal(host.norm3.weight)


def test_a_classifier_of_other_windows_starts_a_backbone(tmp_path):
    """As ``init_cfg`` reads it: norms of maps that a classifier has not begin as they are."""
    host = perturb(SwinTransformer(**WORDS | dict(out_indices=(3,))), 0.2)
    path = str(tmp_path / 'host.pth')
    torch.save(dict(state_dict={f'backbone.{key}': x for key, x in host.state_dict().items()}), path)
    backbone = MSSwin(**WORDS, window_size=12, gate=FIXED)
    CheckedPretrained(path, 'backbone')(backbone)
    assert backbone.norm3.weight.equal(host.norm3.weight) and (backbone.norm0.weight == 1).all()
    assert backbone.stages[1].blocks[0].ffn.layers[1].weight.equal(host.stages[1].blocks[0].ffn.layers[1].weight)
    with pytest.raises(ValueError, match='wanted whole parts of MSSwin, got none of'):
        torch.save({key: x for key, x in host.state_dict().items() if 'proj' not in key}, path)
        CheckedPretrained(path)(backbone)


def test_every_training_image_draws_its_ratio():
    backbone = build(gate=dict(type='ScaleGate'), pad_small_map=True, train_ratios=(0.2, 0.4))
    decisions = run(backbone, random_images((160, 160), 4), training=True)[1].decisions
    ratios = decisions.mean((1, 2))
    assert (ratios >= 0.2 - 1e-9).all() and (ratios <= 0.4 + 1e-9).all()


def test_stated_decisions_overrule_random_budgets():
    """In training as in inference: a benchmark times the decisions whose costs it lists."""
    backbone = build(gate=dict(type='ScaleGate'), pad_small_map=True, train_ratios=(0.0, 0.0))
    coarse = torch.ones(2, 5, 5).double()
    with backbone.configured(gate=backbone.state_decisions(coarse)):
        assert run(backbone, random_images((160, 160), 2), training=True)[1].decisions.all()
    assert backbone.train_ratios == (0.0, 0.0)


def test_a_gate_of_a_config_has_the_backbones_type():
    backbone = build(pad_small_map=True)
    with backbone.configured(gate=dict(type='ScaleGate')), torch.no_grad():
        assert backbone(random_images((160, 160), 1))[0].dtype == torch.float64


def test_utilities_teach_its_gate():
    init_default_scope('mmseg')
    backbone = dict(type='MSSwin', **WORDS, gate=dict(type='ScaleGate'), pad_small_map=True)
    head = dict(type='FCNHead', in_channels=64, channels=8, num_convs=1, num_classes=3)
    model = MODELS.build(
        dict(type='GatedEncoderDecoder', backbone=backbone, decode_head=head, utility_loss=dict(type='UtilityGateLoss'))
    )
    sample = SegDataSample(
        gt_sem_seg=PixelData(data=torch.randint(3, (1, 128, 128))), metainfo=dict(img_shape=(128, 128))
    )
    losses = model.train().loss(torch.randn(2, 3, 128, 128), [sample, sample])
    losses['loss_gate_utility'].backward()
    assert all(x.grad.abs().sum() > 0 for x in model.backbone.gate.parameters())


def test_bias_tables_of_other_windows_are_resized():
    state = SwinTransformer(**WORDS).state_dict()
    key = 'stages.0.blocks.1.attn.w_msa.relative_position_bias_table'
    state[key] = torch.arange(13.0).repeat_interleave(13).unsqueeze(1)  # grows along y alone
    backbone = build(window_size=12)
    backbone.load_state_dict(state)
    table = backbone.state_dict()[key].view(23, 23)
    close(table, table[:, :1].expand(23, 23), tolerance=1e-5)
    assert (table[1:] > table[:-1]).all() and abs(table[11, 0] - 6) < 1e-6


def test_swin_tiny_costs_what_was_computed_beforehand():
    for region_size, wanted in ((32, (23.4, 16.0, 12.3, 8.7)), (64, (23.4, 14.5, 10.1, 5.7))):
        backbone = MSSwin(region_size=region_size, gate=FIXED, pad_small_map=True)
        images = torch.zeros(1, 3, 512, 512)
        for ratio, gmacs in zip((0.0, 0.5, 0.75, 1.0), wanted, strict=True):
            decisions = backbone.random_decisions(ratio, images, torch.Generator().manual_seed(0))
            assert backbone.costs_of(decisions, (512, 512)).total.item() / 1e9 == pytest.approx(gmacs, abs=0.06)


def test_stochastic_depth_drops_branches_of_whole_images():
    """Where both branches of the second of two blocks are dropped, the image has the features of the first."""
    words = dict(region_size=8, out_indices=(0,), drop_path_rate=0.5)
    both, first = (build(arch=dict(embed_dims=8, depths=[n], num_heads=[2]), **words) for n in (2, 1))
    assert both.drop_path_rates == [0.0, 0.5]
    first.load_state_dict(both.state_dict(), strict=False)
    images = random_images((30, 41), 12)
    decisions = varied_decisions(both, images)
    (features,), _ = run(both, images, decisions, training=True)
    (wanted,), _ = run(first, images, decisions)
    dropped = torch.isclose(features, wanted).flatten(1).all(1)
    assert 0 < dropped.sum() < 12
    assert not torch.isclose(features[~dropped], wanted[~dropped]).flatten(1).all(1).any()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (dict(region_size=48), 'region_size must be one of 32, 64, got 48'),
        (dict(region_size=16), 'region_size must be one of 32, 64, got 16'),  # less than a cell of the last stage
        (dict(region_size=32.0), 'region_size must be one of 32, 64, got 32.0'),
        (dict(arch='huge'), "arch must be one of .*'tiny', got 'huge'"),
        (dict(out_after_downsample=True), 'wanted out_after_downsample=False, got'),
        (dict(window_size=2), 'wanted windows of at least 3 x 3 cells, got'),
        (dict(patch_cfg=dict(kernel_size=7)), 'wanted patches of 4 x 4 pixels that do not overlap, got'),
        (dict(stage_cfgs=dict(downsample_cfg=dict(kernel_size=3))), 'wanted merging of 2 x 2, got'),
        (dict(train_execution='trimmed'), "train_execution must be one of .*, got 'trimmed'"),
        (dict(counterfactual_share=0), r'counterfactual_share must lie in \(0, 1\], got 0'),
        (
            dict(train_ratios=(0.5, 0.2)),
            r'train_ratios must lie in \[0, 1\] .* range, got \(0.5, 0.2\)',
        ),
        (dict(gate_temperature=0.0), r'gate_temperature must lie in \(0, inf\), got 0.0'),
    ],
)
def test_wrong_words_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        MSSwin(**WORDS | words)


def test_maps_smaller_than_windows_are_refused():
    with pytest.raises(ValueError, match='wanted maps of 7 x 7 cells or more .* or pad_small_map=True, got 5 x 7'):
        build()(random_images((160, 224), 1))


@pytest.mark.parametrize(('old', 'new'), [((32, 128), (64, 128)), ((64, 128), (128, 64)), ((64, 96), (96, 128))])
def test_absolute_positions_of_no_square_keep_their_places(old, new):
    words = next(iter(MSSwin.examples().values())) | dict(use_abs_pos_embed=True)
    source, target = (MSSwin(**words | dict(img_size=size)) for size in (old, new))
    torch.nn.init.normal_(source.absolute_pos_embed)
    grids = [tuple(x.patch_embed.init_out_size) for x in (source, target)]
    wanted = resize_pos_embed(source.absolute_pos_embed, *grids, target.interpolate_mode, 0)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.absolute_pos_embed, wanted)


@pytest.mark.parametrize('indices', [(1, 0), (-1,), (0, 2), ()])
def test_stages_that_are_none(indices):
    words = next(iter(MSSwin.examples().values())) | dict(out_indices=indices)
    with pytest.raises(ValueError, match='out_indices: wanted ascending ones of stages 0 to 1, got'):
        MSSwin(**words)
