"""The timing command, on small networks of random weights: what it measures and writes, not how long that takes."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
CONFIG = CONFIGS / 'msvit_upernet_scenes.py'
QUICK = ('--ratios', 0.5, '--repeats', 2)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'random.pth'
    torch.save({'state_dict': MODELS.build(Config.fromfile(CONFIG).model).state_dict(), 'meta': {}}, path)
    return path


def by_variant(rows, model, decisions='random 0.5'):
    rows = [row for row in rows if row['model'] == model and row['decisions'] in (decisions, 'all tokens')]
    return {row['variant']: row for row in rows}


@pytest.mark.slow
def test_inference_on_the_images_of_the_data_set(run, checkpoint, tmp_path):
    out = tmp_path / 'benchmark.json'
    printed = run('benchmark', CONFIG, checkpoint, '--batch-sizes', 1, 3, *QUICK, '--out', out)
    assert 'No checkpoint' not in printed
    assert '1 MAC = 1 FLOP' in printed
    written = json.loads(out.read_text())
    assert written['phase'] == 'inference'
    assert written['images'] == 'test images of the config'
    assert {'config', 'seed', 'device', 'threads', 'versions', 'clock', 'size'} <= set(written)
    assert list(written['batch_sizes']) == ['1', '3']
    for rows in written['batch_sizes'].values():
        for model in ('backbone', 'whole'):
            variants = by_variant(rows, model)
            assert list(variants) == ['dense', 'masked', 'padded', 'packed', 'smaller image']
            assert list(by_variant(rows, model, 'gate')) == list(variants)
            assert variants['dense']['time_ratio'] == variants['dense']['efficiency'] == 1
            assert variants['packed']['num_tokens'] == 90 < variants['dense']['num_tokens'] == 144
            assert variants['packed']['gmacs'] < variants['dense']['gmacs']
            for row in variants.values():
                assert 0 < row['time_ms_q1'] <= row['time_ms'] <= row['time_ms_q3']
                assert 0 < row['time_ratio_q1'] <= row['time_ratio'] <= row['time_ratio_q3']
            assert variants['dense']['peak_memory_ratio'] == 1 < variants['masked']['peak_memory_ratio']
            assert 0 < variants['packed']['peak_memory_mib'] < variants['masked']['peak_memory_mib']
        blocks, backbone = by_variant(rows, 'blocks'), by_variant(rows, 'backbone')
        assert list(blocks) == ['dense', 'packed', 'smaller image']
        assert all(blocks[name]['gmacs'] < backbone[name]['gmacs'] for name in blocks)
        assert all(0 < backbone[name]['outside_blocks'] < 1 for name in blocks)
        assert 'outside_blocks' not in backbone['masked']
        assert by_variant(rows, 'whole')['packed']['gmacs'] > by_variant(rows, 'backbone')['packed']['gmacs']


def test_training_on_noise_where_the_data_set_is_absent(run, tmp_path):
    out = tmp_path / 'benchmark.json'
    options = ('--batch-sizes', 2, *QUICK, '--train', '--size', 70, 90, '--out', out)
    options += ('--cfg-options', 'test_dataloader.dataset.data_root=absent')
    printed = run('benchmark', CONFIGS / 'msvit_upernet_camvid.py', *options)
    assert 'smoothed noise' in printed
    assert 'No checkpoint: random weights' in printed
    written = json.loads(out.read_text())
    assert (written['phase'], written['size']) == ('training', [70, 90])
    assert not by_variant(written['batch_sizes']['2'], 'blocks')
    for model in ('backbone', 'whole'):
        variants = by_variant(written['batch_sizes']['2'], model)
        assert list(variants) == ['dense', 'masked', 'trimmed', 'counterfactual', 'packed', 'smaller image']


def test_training_under_a_head_on_tokens(run, tmp_path):
    out = tmp_path / 'benchmark.json'
    options = ('--batch-sizes', 2, *QUICK, '--train', '--size', 32, 48, '--out', out)
    options += ('--executions', 'masked', 'packed', '--parts', 'backbone', 'whole')
    run('benchmark', CONFIGS / 'msvit_mixedsegmenter_scenes.py', *options)
    rows = json.loads(out.read_text())['batch_sizes']['2']
    head, backbone = (by_variant(rows, model) for model in ('whole', 'backbone'))
    assert list(head) == ['dense', 'masked', 'packed', 'smaller image']
    decoder = {name: head[name]['gmacs'] - backbone[name]['gmacs'] for name in head}
    assert decoder['masked'] == pytest.approx(decoder['packed'])
    assert decoder['packed'] < decoder['dense']


def test_routes_beside_plain_pvt(run, tmp_path):
    out = tmp_path / 'benchmark.json'
    options = ('--batch-sizes', 1, '--ratios', 0.6, '--repeats', 2, '--size', 64, 64, '--out', out)
    run('benchmark', CONFIGS / 'dit_upernet_scenes.py', *options)
    rows = json.loads(out.read_text())['batch_sizes']['1']
    names = [(row['decisions'], row['variant']) for row in rows if row['model'] == 'backbone']
    assert names == [('all tokens', 'dense'), ('random 0.6', 'masked'), ('random 0.6', 'sparse')]
    assert rows[0]['time_ratio'] == 1
    assert not [row for row in rows if row['model'] == 'blocks']


def test_absent_device(fail, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert fail('benchmark', CONFIG, '--device', 'cuda') == "error: device: wanted 'cuda', got a machine without CUDA."


@pytest.mark.parametrize(
    ('config', 'arguments', 'message'),
    [
        (CONFIG, '--ratios 1.5', r'ratio must lie in \[0, 1\], got 1.5'),
        (CONFIGS / 'dit_upernet_scenes.py', '--ratios 0.01', 'cost_ratio must lie between .* got 0.01'),
        (CONFIG, '--executions trimmed', '--executions: wanted some of masked, padded, packed, got trimmed'),
        (CONFIG, '--size 3 3 --batch-sizes 1', '--size: in images of 3x3 pixels: RuntimeError: Input and output sizes'),
        (CONFIG, '--batch-sizes 300', 'wanted 300 distinct ones for the largest batch, got 256'),
        (
            CONFIGS / 'studies/baselines/dense_fine_upernet_camvid.py',
            '--train',
            'wanted a gate that learns.*got FixedGate',
        ),
        (CONFIG, '--train --parts blocks', '--parts: wanted whole or backbone with --train, got blocks'),
    ],
)
def test_bad_input_is_refused(fail, config, arguments, message):
    assert re.search(message, fail('benchmark', config, *arguments.split()))
