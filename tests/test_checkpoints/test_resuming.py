import os

import pytest
import torch

from msvit_mm.checkpoints import find_resumable


@pytest.fixture
def folder(tmp_path):
    """A work directory with checkpoints of iterations 2 and 4, their last best, and weights alone that are newer."""
    for age, name in enumerate(['iter_2', 'iter_4', 'best_mIoU_iter_4', 'weights']):
        content = dict(state_dict=dict(a=torch.ones(1)))
        if 'weights' not in name:
            content |= dict(optimizer={}, meta=dict(iter=2, epoch=0), message_hub={})
        torch.save(content, tmp_path / f'{name}.pth')
        os.utime(tmp_path / f'{name}.pth', (age, age))
    return tmp_path


CONTENTS = [
    '',
    '\n',
    '\0' * 40,
    '/somewhere/else/iter_6.pth',
    'best.pth',
    '..',
    '.',
    '/',
    'weights.pth',
    '\udcff\udc80',
]


@pytest.mark.parametrize('content', [None, *CONTENTS], ids=repr)
def test_whatever_last_checkpoint_says_the_newest_is_found(folder, content):
    if content is not None:
        (folder / 'last_checkpoint').write_bytes(content.encode(errors='surrogateescape'))
    assert find_resumable(folder) == folder / 'iter_4.pth'


@pytest.mark.parametrize('place', ['{}', '/moved/run/{}', 'C:\\runs\\{}'])
def test_what_it_names_here_goes_first(folder, place):
    (folder / 'last_checkpoint').write_text(place.format('iter_2.pth'))
    assert find_resumable(folder) == folder / 'iter_2.pth'


def test_another_folder_is_never_looked_at(folder, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    (empty / 'last_checkpoint').write_text(str(folder / 'iter_4.pth'))
    assert find_resumable(empty) is None
    assert find_resumable(tmp_path / 'missing') is None


@pytest.mark.parametrize('damage', [b'', b'half a file', b'\0' * 100])
def test_damaged_ones_are_passed_over_and_never_taken_for_none(folder, damage):
    (folder / 'last_checkpoint').write_text('iter_4.pth')
    (folder / 'iter_4.pth').write_bytes(damage)
    assert find_resumable(folder) == folder / 'iter_2.pth'
    (folder / 'iter_2.pth').write_bytes(damage)
    with pytest.raises(
        ValueError, match=r"--resume: checkpoint '.*iter_4.pth': .* No other checkpoint in .* be resumed"
    ):
        find_resumable(folder)
