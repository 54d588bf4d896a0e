"""What a command shows and keeps of its numbers: a table for the reader, a JSON file for programs."""

import csv
import io
import json
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from rich.table import Table

from ..checkpoints import check_new, write_files
from .machine import describe_machine


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: What stands above it.
        cell: How a row, a mapping, reads in it: ``'{gmacs:.4g}'``.
    """

    title: str
    cell: str

    def is_in(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has the numbers of this column."""
        return all(row.get(name) is not None for _, name, _, _ in Formatter().parse(self.cell) if name)


def column_of(name: str, value: Any) -> Column:
    """The column of a key whose value is like this one.

    Example:
        >>> column_of('time_ms', 3.25)
        Column(title='time ms', cell='{time_ms:.4g}')
    """
    return Column(name.replace('_', ' '), f'{{{name}:.4g}}' if isinstance(value, float) else f'{{{name}}}')


# What a timed thing costs, as :mod:`msvit_mm.studies.timing` and the benchmarks name it.
COST_COLUMNS = (
    Column('tokens', '{num_tokens:.0f}'),
    Column('GMACs', '{gmacs:.4g}'),
    Column('ms', '{time_ms:.4g}'),
    Column('time / dense', '{time_ratio:.2f} ({time_ratio_q1:.2f}-{time_ratio_q3:.2f})'),
    Column('efficiency', '{efficiency:.2f}'),
)


def make_table(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[Column] | None = None, title: str | None = None
) -> Table:
    """The rows as a table for rich: a column that no row has is left out, a cell that its row has not is ``-``.

    Args:
        rows: At least one.
        columns: By default those of the first row, by name.
        title: Stands above.
    """
    columns = [column_of(*item) for item in rows[0].items()] if columns is None else columns
    columns = [column for column in columns if any(column.is_in(row) for row in rows)]
    table = Table(*(column.title for column in columns), title=title, box=None, pad_edge=False, collapse_padding=True)
    for row in rows:
        table.add_row(*(column.cell.format(**row) if column.is_in(row) else '-' for column in columns))
    return table


def describe_run(options: Mapping[str, Any], seed: int, device: str) -> dict[str, Any]:
    """What a record has to say beside its numbers: the command's options, seed, device, threads and versions.

    Args:
        options: By name; ``config`` and ``checkpoint`` stand apart from the others.
    """
    inputs = {name: options.get(name) for name in ('config', 'checkpoint')}
    others = {name: value for name, value in options.items() if name not in (*inputs, 'out')}
    return dict(**inputs, options=others, seed=seed, **describe_machine(device))


def check_record(args: Namespace, *inputs: str | None) -> None:
    """Check before the work that the record can be written, over none of the inputs.

    Raises:
        ValueError: If not.
    """
    check_new([Path(args.out)] if args.out else [], args.overwrite, inputs)


def write_record(path: str | Path | None, numbers: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Write numbers and what :func:`describe_run` says of them as a JSON file, unless there is no path."""
    if path:
        write_files({Path(path): json_bytes({**numbers, **run})})


def json_bytes(record: Mapping[str, Any]) -> bytes:
    """A record as the content of a JSON file."""
    return json.dumps(record, indent=2).encode()


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows with the same keys as the content of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return the metrics that are numbers as one line.

    Example:
        >>> format_metrics({'mIoU': 41.238, 'num_tokens': 612.5})
        'mIoU 41.24 | num_tokens 612.5'
    """
    return ' | '.join(f'{name} {value:.4g}' for name, value in metrics.items() if isinstance(value, Real))
