"""The notebooks run from the first cell to the last."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.registry import DATASETS, MODELS, init_default_scope

from msvit_mm.cli.config import load_config

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / 'notebooks' / 'tradeoff.ipynb'


@pytest.fixture
def checkpoint(tmp_path):
    """A Scenes network of random weights, with its config."""
    cfg = load_config('msvit_upernet_scenes')
    text = cfg.pretty_text
    init_default_scope('mmseg')
    meta = dict(cfg=text, dataset_meta=DATASETS.get('ScenesDataset').METAINFO)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=meta), tmp_path / 'random.pth')
    return tmp_path / 'random.pth'


def test_from_weights_to_a_tradeoff(checkpoint):
    plt.switch_backend('agg')
    parameters, *cells = [
        ''.join(cell['source']) for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == 'code'
    ]
    names: dict = {}
    compile(parameters, str(NOTEBOOK), 'exec')  # reads what `make demo` writes
    demo = re.search(r'^DEMO := (.+)\$\(SEED\)$', (ROOT / 'Makefile').read_text(), flags=re.MULTILINE)[1]
    assert f"Path('../{demo}0/mixed/last_checkpoint')" in parameters
    names |= dict(Path=Path, CHECKPOINT=checkpoint, BUDGETS=[45, 72, 108], NUM_IMAGES=2)
    for cell in cells[:-1]:
        exec(cell, names)
    *imports, last = cells[-1].strip().split('\n\n')
    exec('\n'.join(imports), names)
    assert isinstance(eval(last, names), Figure)
    costs = [point['gmacs'] for point in names['points']]
    assert costs[0] < costs[1] < costs[2] and np.isfinite([point['mIoU'] for point in names['points']]).all()
