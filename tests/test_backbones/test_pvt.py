import torch
from torch import nn

from msvit_mm.backbones.pvt import ConvMLP, PatchEmbed
from msvit_mm.ops.maps import to_map
from msvit_mm.ops.packing import Packing
from msvit_mm.ops.patches import OpenTokens


def test_candidate_of_a_closed_token_is_what_opening_it_alone_would_give(perturb):
    mlp, size = perturb(ConvMLP(8, 24)), (4, 5)
    tokens, gate = torch.randn(2, 20, 8), (torch.rand(2, 20, 1) < 0.5).float()
    candidates = mlp(tokens, gate.clone().requires_grad_(), size)
    for image, token in (gate[..., 0] == 0).nonzero().tolist():
        opened = gate.clone()
        opened[image, token] = 1
        torch.testing.assert_close(candidates[image, token], mlp(tokens, opened, size)[image, token])


def test_closed_tokens_are_zeros_for_their_neighbours(perturb):
    mlp, size = perturb(ConvMLP(8, 24)), (4, 5)
    tokens, gate = torch.randn(2, 20, 8), (torch.rand(2, 20, 1) < 0.5).float()
    others = torch.where(gate.bool(), tokens, torch.randn_like(tokens))
    opened = OpenTokens.select(gate[..., 0].bool(), size, patch=1)
    outputs = [opened.packing.pack(mlp(x, gate, size)) for x in (tokens, others)]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(mlp.forward_sparse(opened.packing.pack(tokens), opened), outputs[0])


def test_single_patches_are_those_of_the_convolution(perturb):
    embed, norm, tokens = perturb(PatchEmbed(6, 10, 3, stride=2)), perturb(nn.LayerNorm(6)), torch.randn(2, 35, 6)
    wanted = embed(to_map(norm(tokens), (5, 7)))
    assert wanted.shape == (2, 12, 10)
    packing = Packing.select(torch.rand(2, 12) < 0.4)
    torch.testing.assert_close(embed.forward_sparse(tokens, norm, (5, 7), packing), packing.pack(wanted))
    assert isinstance(embed.norm, nn.LayerNorm) and embed.norm.eps == 1e-5
