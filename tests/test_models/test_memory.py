"""Class scores that do not fit into memory are refused before they are asked for."""

import pytest
import torch

from msvit_mm.models import ImageMemoryError, memory
from msvit_mm.models.memory import check_memory


@pytest.mark.parametrize('batch, words', [(1, ''), (3, ' in a batch of 3')])
def test_an_image_too_large_says_which_fits(batch, words):
    inputs, metas = torch.empty(batch, 3, 60, 80), [dict(ori_shape=(120, 160))] * batch
    needed = 4 * 10 * (3 * 60 * 80 + 1.25 * 120 * 160) * batch
    check_memory(inputs, metas, 10)
    check_memory(inputs, metas, 10, available=int(needed))
    message = f'wanted at most about 60 x 80 pixels{words} for .* got 120 x 160, whose scores of 10 classes'
    with pytest.raises(ImageMemoryError, match=message):
        check_memory(inputs, metas, 10, available=int(needed) // 4)


def test_nobody_is_asked_for_little(monkeypatch):
    monkeypatch.setattr(memory, 'free_memory', lambda device: 0)
    check_memory(torch.empty(1, 3, 60, 80), [{}], 10)
    with pytest.raises(ImageMemoryError, match='got 6000 x 8000'):
        check_memory(torch.empty(1, 3, 60, 80), [dict(ori_shape=(6000, 8000))], 10)


@pytest.mark.parametrize('names', memory.CONTROL_GROUPS, ids=('version 2', 'version 1'))
def test_limits_of_containers(tmp_path, names):
    limit, used, statistics, cache = names
    (tmp_path / 'memory').mkdir()
    assert memory._left_in_container(tmp_path) == 2**62
    (tmp_path / used).write_text('700\n')
    (tmp_path / statistics).write_text(f'anon 600\n{cache} 50\nslab 1\n')
    for text, left in (('1000\n', 350), ('600', 0), ('max\n', 2**62)):
        (tmp_path / limit).write_text(text)
        assert memory._left_in_container(tmp_path) == left
