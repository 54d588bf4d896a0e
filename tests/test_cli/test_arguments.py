"""Words that several commands take mean the same in all of them."""

from argparse import ArgumentParser

import pytest

from msvit_cli import arguments, command_names, parse_args, run

SCENES = 'msvit_upernet_scenes'
WORDS = ('--cfg-options', '--device', '--images', '--launcher', '--work-dir')


def options_of(command):
    """Options of a command by their words."""
    parser = ArgumentParser()
    getattr(arguments, f'add_{command}')(parser)
    return {word: action for action in parser._actions for word in action.option_strings}


@pytest.mark.parametrize('word', WORDS)
def test_a_shared_word_is_one_everywhere(word):
    found = {command: options[word] for command in command_names() if word in (options := options_of(command))}
    assert len(found) > 1
    for command, action in found.items():
        described = {name: getattr(action, name) for name in arguments.SHARED[word] if name != 'action'}
        assert described == {name: x for name, x in arguments.SHARED[word].items() if name != 'action'}, command


def test_auto_is_the_default_of_every_device():
    for command in command_names():
        for word, action in options_of(command).items():
            if 'device' in word:
                assert (word, action.default) == ('--device', 'auto'), command


def test_images_have_no_other_word():
    for command in command_names():
        words = {word for word in options_of(command) if word.startswith(('--im', '--photo', '--picture'))}
        assert words <= {'--images', '--img-size'}, command


@pytest.mark.parametrize('given', [['foo'], ['a=', '60', 'b'], ['a = 3'], ['=3'], ['a=[1,2']])
def test_options_that_are_none(given, capsys):
    with pytest.raises(SystemExit):
        parse_args('test', ['x.py', 'y.pth', '--cfg-options', *given])
    assert 'error: --cfg-options: wanted ' in capsys.readouterr().err


def test_options_keep_the_spaces_of_a_word():
    given = ['a=/tmp/my data', 'b=[1, 2]', 'c=3', 'd= x']
    assert parse_args('test', ['x.py', 'y.pth', '--cfg-options', *given]).cfg_options == dict(
        a='/tmp/my data', b=[1, 2], c=3, d='x'
    )


@pytest.mark.parametrize(
    ('command', 'given', 'message'),
    [
        ('fit_gate', '--steps 0', 'argument --steps: wanted a whole number of at least 1, got '),
        ('fit_gate', '--lr nan', 'argument --lr: wanted a number above 0, got '),
        ('fit_gate', '--num-workers -1', 'argument --num-workers: wanted a whole number of at least 0, got '),
        ('benchmark', '--batch-sizes 0', 'argument --batch-sizes: wanted a whole number of at least 1, got '),
        ('benchmark', '--ratios inf', 'argument --ratios: wanted a number of at least 0, got '),
        ('calibrate_gate', '--coarse-ratio 1.5', 'argument --coarse-ratio: wanted a number from 0 to 1, got '),
        ('export', '--size 1e3 96', 'argument --size: wanted a whole number of at least 1, got '),
        ('plot_tradeoff', '--tolerance nan', 'argument --tolerance: wanted a number of at least 0, got '),
        ('demo', '--port 70000', 'argument --port: wanted a whole number from 1 to 65535, got '),
    ],
)
def test_numbers_that_are_none(command, given, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(command, given.split())
    assert message in capsys.readouterr().err


def test_every_number_says_from_where_it_counts():
    for command in command_names():
        for word, action in options_of(command).items():
            assert action.type not in (int, float), (command, word)


def test_interrupted(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('msvit_mm.cli.main.run_command', interrupt)
    with pytest.raises(SystemExit) as exit_info:
        run('get_flops', [SCENES])
    assert exit_info.value.code == 130 and 'error: interrupted' in capsys.readouterr().err
