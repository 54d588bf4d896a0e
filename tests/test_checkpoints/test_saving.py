"""Writing outputs: all of them or none, and nothing that is in the way is lost."""

import pytest

from msvit_mm.checkpoints import check_new, checkpoint_bytes, write_files


def test_an_interrupted_write_loses_nothing(tmp_path):
    old = tmp_path / 'a.txt'
    old.write_bytes(b'old')
    with pytest.raises(TypeError):
        write_files({old: b'new', tmp_path / 'b.txt': None})
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
    assert old.read_bytes() == b'old'
    write_files({old: b'new', tmp_path / 'c' / 'b.txt': b'b'})
    assert old.read_bytes() == b'new'
    assert [path.name for path in (tmp_path / 'c').iterdir()] == ['b.txt']


def test_what_is_in_the_way(tmp_path):
    old = tmp_path / 'a.txt'
    check_new([old], overwrite=False)
    old.touch()
    check_new([old], overwrite=True)
    message = "a.txt': wanted a new file, got an existing one; --overwrite replaces a file"
    with pytest.raises(ValueError, match=message):
        check_new([tmp_path / 'b.txt', old], overwrite=False)
    with pytest.raises(ValueError, match='wanted a new file'):
        check_new([tmp_path], overwrite=True)


def test_equal_checkpoints_have_equal_bytes():
    assert checkpoint_bytes(dict(meta={'iter': 1})) == checkpoint_bytes(dict(meta={'iter': 1}))
    assert checkpoint_bytes(dict(meta={'iter': 1})) != checkpoint_bytes(dict(meta={'iter': 2}))
