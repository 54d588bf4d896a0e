"""What the timing beside peers does without their code, which is not part of this project."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(autouse=True)
def tools_on_the_path(monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(TOOLS), *sys.path])


@pytest.fixture
def peers():
    return importlib.import_module('peers')


@pytest.fixture
def run():
    def call(*arguments):
        args = runpy.run_path(str(TOOLS / 'benchmark_peers.py'))['parse_args'](list(map(str, arguments)))
        importlib.import_module('peers.study').main(args)

    return call


@pytest.mark.parametrize('option', ['--tome', '--algm'])
@pytest.mark.parametrize('folder', ['', 'absent'], ids=['foreign', 'missing'])
def test_path_without_the_peer_is_one_line(run, tmp_path, option, folder):
    with pytest.raises(SystemExit, match=f"^error: '{tmp_path / folder}': wanted a clone of .*without (tome|segm)/.*"):
        run(option, tmp_path / folder)


def test_package_that_a_peer_lacks_is_one_line(run, tmp_path):
    (tmp_path / 'tome' / 'patch').mkdir(parents=True)
    (tmp_path / 'tome' / 'patch' / 'timm.py').write_text('import no_such_package')
    with pytest.raises(SystemExit, match="^error: .*packages that it needs, got: No module named 'no_such_package'"):
        run('--tome', tmp_path)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'wanted --tome PATH, a clone of facebookresearch/ToMe, --algm PATH, one of tue-mps/algm-segmenter'),
        (['--size', 40], '--size: wanted a positive multiple of 32, got 40'),
    ],
)
def test_bad_input_is_refused(run, arguments, message):
    with pytest.raises(SystemExit, match=f'error: .*{message}'):
        run(*arguments, *(['--tome', 'absent'] if arguments else []))


@pytest.mark.slow
def test_own_systems_without_a_peer(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.import_module('peers.study'), 'check_args', lambda args: None)
    run('--size', 64, '--batch-sizes', 2, '--repeats', 1, '--out', tmp_path / 'peers.json')
    assert 'packed, tokens' in capsys.readouterr().out
    written = json.loads((tmp_path / 'peers.json').read_text())
    assert written['peers'] == {}
    rows = {(row['part'], row['system']): row for row in written['batch_sizes']['2']}
    systems = ['dense host', 'packed, cells', 'packed, tokens']
    merging = ['merging, tokens', 'packed, merging']
    assert sorted(rows) == sorted((part, x) for part in ('backbone', 'whole') for x in systems + merging)
    for part in ('backbone', 'whole'):
        dense, cells, tokens = (rows[part, system] for system in systems)
        assert dense['time_ratio'] == dense['efficiency'] == 1
        assert cells['num_tokens'] == tokens['num_tokens'] < dense['num_tokens'] == 16
        assert cells['gmacs'] < dense['gmacs']
        for system in merging:  # a share of few tokens is no fine measure
            assert rows[part, system]['gmacs'] == pytest.approx(tokens['gmacs'], rel=0.15)
            assert rows[part, system]['num_tokens'] < dense['num_tokens']
    assert rows['whole', 'packed, tokens']['gmacs'] < rows['whole', 'packed, cells']['gmacs']
    # of cells the backbone computes the detail, of tokens the head
    assert rows['backbone', 'packed, tokens']['gmacs'] < rows['backbone', 'packed, cells']['gmacs']


@pytest.mark.parametrize('word', ['num_heads', 'heads'])
@pytest.mark.parametrize('weighted', [False, True])
def test_fused_attention_is_the_softmax_of_scores_and_log_sizes(peers, word, weighted):
    torch.manual_seed(0)
    layer = SimpleNamespace(qkv=nn.Linear(12, 36), proj=nn.Linear(12, 12), **{word: 3})
    x = torch.randn(2, 5, 12)
    size = torch.randint(1, 9, (2, 5, 1)).float() if weighted else None
    output, keys = peers.fused_attention(layer, x, size)

    query, key, value = (y.view(2, 5, 3, 4) for y in layer.qkv(x).split(12, dim=-1))
    weights = (torch.einsum('bqhc,bkhc->bhqk', query, key) / 2).exp()
    if weighted:
        weights = weights * size.view(2, 1, 1, 5)
    attended = torch.einsum('bhqk,bkhc->bqhc', weights / weights.sum(-1, keepdim=True), value)
    torch.testing.assert_close(output, layer.proj(attended.reshape(2, 5, 12)), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        importlib.import_module('peers.tome').tome_attention(layer, x, size)[1], key.mean(2), rtol=0, atol=1e-5
    )
    blind = peers.fused_attention(layer, x)[0]
    torch.testing.assert_close(importlib.import_module('peers.algm').algm_attention(layer, x, size)[0], blind)
    torch.testing.assert_close(keys.transpose(1, 2), key)


def test_setting_of_the_nearest_gmacs(peers):
    assert peers.match_gmacs(lambda r: 10 - round(r), target=6.4, none=0, most=8) == pytest.approx(4, abs=0.5)
    assert peers.match_gmacs(lambda threshold: 3 + threshold, target=2.5, none=1, most=-1) == pytest.approx(
        -0.5, abs=0.01
    )
