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
