"""Tables and records: what a cell shows, and what a file says."""

import json

import torch
from rich.console import Console

from msvit_mm.cli.records import Column, csv_bytes, describe_run, make_table, write_record

ROWS = [dict(name='a', gmacs=1.23456, low=1.0, high=2.0, odd=None), dict(name='b', gmacs=10.0)]
COLUMNS = [
    Column('', '{name}'),
    Column('GMACs', '{gmacs:.4g}'),
    Column('range', '{low:.1f} to {high:.1f}'),
    Column('odd', '{odd:.2f}'),
]


def lines_of(table):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_cells_that_a_row_lacks_and_columns_that_all_lack():
    assert lines_of(make_table(ROWS, COLUMNS)) == [
        ['GMACs', 'range'],
        ['a', '1.235', '1.0', 'to', '2.0'],
        ['b', '10', '-'],
    ]


def test_columns_are_the_keys_by_default():
    rows = [dict(name='a', num_tokens=60.5, pareto=True)]
    assert lines_of(make_table(rows)) == [['name', 'num', 'tokens', 'pareto'], ['a', '60.5', 'True']]


def test_record_holds_numbers_and_run(tmp_path):
    options = dict(config='a.py', ratio=0.5, out='record.json')
    run = describe_run(options, seed=3, device='cpu')
    assert (run['config'], run['checkpoint'], run['options'], run['seed']) == ('a.py', None, dict(ratio=0.5), 3)
    assert run['threads'] == torch.get_num_threads()
    assert run['versions']['torch'] == torch.__version__
    write_record(tmp_path / 'new' / 'record.json', dict(gmacs=1.5), run)
    assert json.loads((tmp_path / 'new' / 'record.json').read_text()) == dict(gmacs=1.5, **run)
    write_record(None, dict(gmacs=1.5), run)


def test_csv():
    assert csv_bytes([dict(name='a, b', value=1.5)]) == b'name,value\n"a, b",1.5\n'
