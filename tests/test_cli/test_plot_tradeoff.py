"""The plot of accuracy against cost: what is evaluated, what is remembered, and how bad input ends."""

import csv
import json
import re
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2]
CONFIGS = {
    'learned': ROOT / 'configs' / 'msvit_upernet_scenes.py',
    'fine': ROOT / 'configs/studies/baselines/dense_fine_upernet_scenes.py',
    'routes': ROOT / 'configs' / 'dit_upernet_scenes.py',
}
OPTIONS = [
    'test_dataloader.dataset.num_images=6',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'train_dataloader.dataset.num_images=4',
]


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Random weights of every config; decisions of the learned gate differ."""
    paths = {}
    init_default_scope('mmseg')
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = MODELS.build(Config.fromfile(config).model)
        if name == 'learned':
            torch.nn.init.normal_(model.backbone.gate.layers[-1].weight, std=30)
        paths[name] = tmp_path_factory.mktemp('tradeoff') / f'{name}.pth'
        torch.save(dict(state_dict=model.state_dict(), meta={}), paths[name])
    return paths


@pytest.fixture
def options(tmp_path):
    return '--work-dir', tmp_path / 'work', '--cfg-options', *OPTIONS


@pytest.fixture
def plot(run, options):
    def call(out_dir, *arguments):
        return run('plot-tradeoff', out_dir, *arguments, *options)

    return call


def points_of(folder):
    return {point['name']: point for point in json.loads((folder / 'points.json').read_text())['points']}


@pytest.mark.slow
def test_all_points_are_evaluated_once(plot, checkpoints, tmp_path):
    learned = dict(
        name='learned', budgets=[60, 90.0], coarse_ratios=[0.2], random=[0.5], edges=[0.5], checkpoint='', config=''
    )
    learned |= dict(config=str(CONFIGS['learned']), checkpoint=str(checkpoints['learned']))
    (tmp_path / 'models.yml').write_text(yaml.safe_dump([learned]))
    arguments = '--list', tmp_path / 'models.yml', '--model', 'fine', CONFIGS['fine'], checkpoints['fine']
    bootstrap = '--bootstrap', 'learned, 60 tokens', 'learned, random 0.5'
    folder = tmp_path / 'out'
    printed = plot(folder, *arguments, *bootstrap)
    assert printed.count(' ...\n') == 7
    points = points_of(folder)
    names = ['learned', *(f'learned, {x}' for x in ('60 tokens', '90 tokens', 'coarse ratio 0.2'))]
    names += ['learned, random 0.5', 'learned, edges 0.5', 'fine']
    assert sorted(points) == sorted(names)

    # 36 regions of 4 cells: 60 tokens leave 8 of them fine
    for name, num_tokens in (('learned, 60 tokens', 60), ('learned, 90 tokens', 90), ('fine', 144)):
        assert points[name]['num_tokens'] == num_tokens
    for name in ('learned, random 0.5', 'learned, edges 0.5'):
        assert points[name]['coarse_ratio'] == 0.5
    assert (
        abs(points['learned, coarse ratio 0.2']['coarse_ratio'] - 0.2) < 0.1 < 0.3 < points['learned']['coarse_ratio']
    )
    assert points['learned, random 0.5']['areas'] != points['learned, edges 0.5']['areas']
    model = MODELS.build(Config.fromfile(CONFIGS['fine']).model)
    all_fine = model.backbone.dense_costs((96, 96)).total.item() / 1e9
    assert points['fine']['backbone_gmacs'] == pytest.approx(all_fine)

    with (folder / 'tradeoff.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['name'] for row in rows] == ['fine', *names[:-1]]
    assert {'gmacs', 'mIoU', 'boundary_fscore', 'small_mIoU', 'num_tokens', 'pareto'} <= set(rows[0])
    assert 'time_ms' not in rows[0]
    assert cv2.imread(str(folder / 'tradeoff.png')).std() > 5
    assert re.search(r'learned, 60 tokens minus learned, random 0.5: [+-]\d.* 95 % interval .* over 6 images', printed)

    alone = dict(learned, budgets=[], coarse_ratios=[], edges=[])
    (tmp_path / 'alone.yml').write_text(yaml.safe_dump([alone]))
    plot(tmp_path / 'alone', '--list', tmp_path / 'alone.yml')
    name = 'learned, random 0.5'
    assert points_of(tmp_path / 'alone')[name]['areas'] == points[name]['areas']  # whatever else is evaluated

    (folder / 'tradeoff.csv').unlink()
    before = points
    printed = plot(folder, *arguments, '--time', 2, '--time-images', 1)
    assert ' ...\n' not in printed  # nothing is evaluated again
    points = points_of(folder)
    assert all(
        point.pop('time_ms') > 0 and point.pop('time_ms_q1') and point.pop('time_ms_q3') for point in points.values()
    )
    assert points == before
    assert 'time_ms' in (folder / 'tradeoff.csv').read_text()

    other = '--model', 'learned', CONFIGS['learned'], checkpoints['fine']  # its gate is missing
    with pytest.raises(SystemExit, match='^error: the checkpoint does not fit the model'):
        plot(folder, *other)
    assert set(points_of(folder)) == set(names)


def test_routes_beside_regions(plot, checkpoints, tmp_path):
    models = [word for name in ('fine', 'routes') for word in ('--model', name, CONFIGS[name], checkpoints[name])]
    plot(tmp_path / 'out', *models)
    points = points_of(tmp_path / 'out')
    reference = MODELS.build(Config.fromfile(CONFIGS['routes']).model).backbone.cost_table((96, 96)).reference / 1e9
    routes = points['routes']
    assert routes['backbone_gmacs'] == pytest.approx(routes['cost_ratio'] * reference)
    assert routes['gmacs'] > routes['backbone_gmacs']
    rows = (tmp_path / 'out' / 'tradeoff.csv').read_text()
    assert 'num_tokens' in rows and 'coarse_ratio' not in rows  # what both have


def test_bad_input(fail, options, checkpoints, tmp_path):
    def check_fails(message, *arguments):
        assert message in fail('plot-tradeoff', tmp_path / 'out', *arguments, *options)
        assert not (tmp_path / 'out').exists()

    def check_list_fails(message, content, *arguments):
        (tmp_path / 'models.yml').write_text(content)
        check_fails(message, '--list', tmp_path / 'models.yml', *arguments)

    fine = '--model', 'fine', CONFIGS['fine'], checkpoints['fine']
    check_fails('wanted at least one --model')
    check_fails('wanted each name once', *fine, *fine)
    check_fails("--bootstrap: wanted two of ['fine'], got 'coarse'", *fine, '--bootstrap', 'fine', 'coarse')
    check_fails('wanted a file, got none', '--model', 'fine', CONFIGS['fine'], tmp_path / 'absent.pth')
    check_fails('wanted a file or a config', '--model', 'fine', 'absent.py', checkpoints['fine'])
    check_fails('wanted one whose logits can shift', *fine, '--coarse-ratios', 0.5)
    check_fails('wanted a file, got none', '--list', tmp_path / 'absent.yml')
    check_list_fails('wanted YAML or JSON', '[')
    check_list_fails('wanted items of name, config, checkpoint', '- name: fine')
    item = 'name: fine, config: a, checkpoint: b'
    check_list_fails('wanted items of name, config', f'[{{{item}, budget: [3]}}]')
    check_list_fails("model 'fine': wanted random in [0, 1], got 1.5", f'[{{{item}, random: [1.5]}}]')
    check_list_fails('wanted a --model for the sweeps', f'[{{{item}}}]', '--random', 0.5)
    check_list_fails("'fine': wanted a list of numbers as budgets, got 3", f'[{{{item}, budgets: 3}}]')


@pytest.mark.parametrize('budget', [35, 145])
def test_a_budget_out_of_reach_stops_before_any_work(plot, checkpoints, tmp_path, budget):
    arguments = '--model', 'learned', CONFIGS['learned'], checkpoints['learned'], '--budgets', budget
    wanted = f"error: model 'learned': wanted budgets of 36 .all coarse. to 144 .all fine. tokens, got {budget}"
    with pytest.raises(SystemExit, match=wanted):
        plot(tmp_path / 'out', *arguments)
    assert not (tmp_path / 'out').exists()


def test_another_file_in_the_place_of_the_points(plot, checkpoints, tmp_path):
    arguments = '--model', 'learned', CONFIGS['learned'], checkpoints['learned']
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'points.json').write_text('{}')
    with pytest.raises(SystemExit, match="points.json': wanted the points of an earlier call, got something else"):
        plot(tmp_path / 'out', *arguments)


def test_options_of_timing_need_it(fail, tmp_path):
    message = fail('plot-tradeoff', tmp_path / 'out', '--model', 'a', 'b', 'c', '--threads', 2)
    assert '--time-images, --threads: wanted --time ROUNDS' in message
