"""Writing outputs: all of them or none, and nothing that is in the way is lost."""

import os
from pathlib import Path

import pytest

from msvit_mm.checkpoints import check_checkpoint_name, check_folder, check_new, checkpoint_bytes, write_files


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


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(28, 'No space left on device')

    (tmp_path / 'a.txt').write_bytes(b'old')
    monkeypatch.setattr(os, 'fsync', no_space)
    with pytest.raises(ValueError, match="a.txt': wanted to write it, got No space left on device"):
        write_files({tmp_path / 'a.txt': b'new'})
    assert [path.name for path in tmp_path.iterdir()] == ['a.txt']
    assert (tmp_path / 'a.txt').read_bytes() == b'old'


def test_inputs_and_folders(tmp_path):
    file = tmp_path / 'a.txt'
    file.touch()
    (tmp_path / 'link').symlink_to(file)
    with pytest.raises(ValueError, match='wanted another file than the inputs'):
        check_new([tmp_path / 'link'], overwrite=True, inputs=[None, file])
    with pytest.raises(ValueError, match="wanted a folder above it, got the file '.*a.txt'"):
        check_new([file / 'b' / 'c.txt'], overwrite=False)
    check_new([tmp_path / 'new' / 'folder' / 'c.txt'], overwrite=False)
    check_folder(tmp_path / 'new', overwrite=False)
    check_folder(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match='wanted a new or empty folder'):
        check_folder(tmp_path, overwrite=False)
    with pytest.raises(ValueError, match='wanted another folder than those of the inputs'):
        check_folder(tmp_path, overwrite=True, inputs=[tmp_path / 'x' / '..'])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.txt', 'link']


@pytest.mark.parametrize('name', ['a.safetensors', 'a.json', 'seed-12345678.pth'])
def test_names_that_are_read_as_something_else(name):
    with pytest.raises(ValueError, match=f"output 'runs/{name}': wanted "):
        check_checkpoint_name(Path('runs', name))


@pytest.mark.parametrize('name', ['a.pth', 'a', 'run-20261129.pth', 'seed-1.pth'])
def test_names_of_checkpoints(name):
    check_checkpoint_name(Path('runs', name))
