"""The page: built from models, its functions called as the browser would, and in a real browser where there is one."""

import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.registry import DATASETS, MODELS, init_default_scope

from msvit_mm.cli.commands.demo import build_app, describe
from msvit_mm.cli.config import load_config
from msvit_mm.studies.prediction import Panels


@pytest.fixture(scope='module')
def model():
    cfg = load_config('msvit_upernet_scenes')
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.cfg, model.dataset_meta = cfg, DATASETS.get('ScenesDataset').METAINFO
    return model


def call(app, name):
    """The function of the page by its name."""
    (found,) = {fn.fn for fn in app.fns.values() if fn.fn.__name__ == name}
    return found


def test_the_page_fits_its_slider_and_segments(model):
    gr = pytest.importorskip('gradio')
    app = build_app(dict(scenes=model))
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    slider = call(app, 'fit')('scenes', image)
    assert (slider.minimum, slider.maximum) == (24, 96)
    segmentation, choices, words = call(app, 'show')('scenes', image, False, 60)
    assert segmentation.shape == image.shape and choices.ndim == 3
    tokens = float(words.splitlines()[2].split('|')[2])
    assert 57 < tokens <= 60
    with pytest.raises(gr.Error, match='budget: wanted 24'):
        call(app, 'show')('scenes', image, False, 500)
    with pytest.raises(gr.Error, match='Choose an image'):
        call(app, 'show')('scenes', None, False, 60)


def test_costs_stand_in_a_table():
    picture = np.zeros((2, 2, 3), np.uint8)
    words = describe(Panels(picture, picture, 'coarse ratio 0.50', 60, 0.04, 0.09, 5.0, 8.0))
    assert '| this one, coarse ratio 0.50 | 60 | 0.04 | 5.0 |' in words
    assert '| dense, same weights | all | 0.09 | 8.0 |' in words


def test_without_gradio_or_models_one_line_says_so(monkeypatch):
    pytest.importorskip('gradio')
    with pytest.raises(ValueError, match='at least one model'):
        build_app({})
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ValueError, match=r"wanted gradio, got none; pip install 'msvit_mm\[demo\]'"):
        build_app({})


@pytest.mark.slow
def test_in_a_browser(model, tmp_path):
    pytest.importorskip('gradio')
    api = pytest.importorskip('playwright.sync_api')
    browser_path = shutil.which('chromium')
    if browser_path is None:
        pytest.skip('no chromium on this machine')
    photo = tmp_path / 'photo.png'
    photo.write_bytes(fileio.get('scenes://val/seed0/96x96/00001.png'))
    app = build_app(dict(scenes=model))
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True)
    try:
        with api.sync_playwright() as player:
            browser = player.chromium.launch(executable_path=browser_path, args=['--no-sandbox'])
            page = browser.new_page(viewport=dict(width=1280, height=900))
            page.set_default_timeout(600_000)
            page.goto(address)
            failures = []
            page.on('pageerror', lambda error: failures.append(error))
            page.locator('input[type=file]').first.set_input_files(str(photo))
            budget = page.locator('input[type=number]').first
            api.expect(budget).to_have_value('90', timeout=600_000)  # the middle of 36 to 144 for this image
            slider, tokens = page.locator('input[type=range]').first, page.locator('table tbody tr').first.locator('td')
            pictures = []
            for share in (0.2, 0.7):
                box = slider.bounding_box()
                page.mouse.move(box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
                page.mouse.down()
                page.mouse.move(box['x'] + share * box['width'], box['y'] + box['height'] / 2, steps=5)
                page.mouse.up()  # lets the network run
                chosen = int(budget.input_value())
                assert abs(chosen - (36 + share * 108)) < 10
                api.expect(tokens.nth(1)).to_have_text(str(chosen - chosen % 3), timeout=600_000)  # 36 and 3 a split
                pictures.append([x.get_attribute('src') for x in page.locator('img').all()])
            assert sum(before != after for before, after in zip(*pictures, strict=True)) == 2  # not the photograph
            budget.fill('60')
            budget.press('Enter')
            page.get_by_role('button', name='Segment').click()
            api.expect(tokens.nth(1)).to_have_text('60', timeout=600_000)
            api.expect(page.locator('table')).to_contain_text('dense, same weights')
            assert not failures
            page.screenshot(path=str(tmp_path / 'page.png'))
            browser.close()
    finally:
        app.close()
    assert cv2.imread(str(tmp_path / 'page.png')).std() > 10
