"""Evaluate one trained network under its own gate and under stand-ins of its cost or fixed ones, in one table.

msvit compare-gates CONFIG CHECKPOINT --out-dir work_dirs/gates
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ...checkpoints import use_safe_loader
from ...studies.gates import draw_gates, evaluate_gates
from ..config import add_config_arguments, load_config
from ..errors import one_line_errors
from ..models import build_test_runner
from ..records import Column, describe_run, make_table, write_record

COLUMNS = (
    Column('gate', '{gate}'),
    Column('mIoU', '{mIoU:.2f}'),
    Column('boundary mIoU', '{boundary/mIoU:.2f}'),
    Column('coarse ratio', '{coarse_ratio:.3f}'),
    Column('cost / dense', '{cost_ratio:.3f}'),
    Column('AUC', '{auc:.3f}'),
    Column('tokens', '{num_tokens:.1f}'),
    Column('backbone GMACs', '{backbone_gmacs:.4f}'),
    Column('GMACs', '{gmacs:.4f}'),
)


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'config', '--cfg-options', '--work-dir')
    parser.add_argument('checkpoint')
    parser.add_argument('--out-dir', help='folder of gates.json and gates.png; default <work dir>/gates')
    parser.add_argument('--num-images', type=int, default=5, help='images in the picture')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    use_safe_loader()
    console = Console()
    with one_line_errors():
        cfg = load_config(args.config, args.cfg_options, args.work_dir)
        runner = build_test_runner(cfg, args.checkpoint)

    rows = evaluate_gates(runner, announce=lambda name: console.print(f'{name} ...'))
    out_dir = Path(args.out_dir or Path(cfg.work_dir) / 'gates')
    device = str(next(runner.model.parameters()).device)
    run = describe_run(vars(args), cfg.randomness['seed'], device)
    write_record(out_dir / 'gates.json', dict(gates=rows), run)
    draw_gates(runner, rows, args.num_images, out_dir / 'gates.png')
    table = [dict(gate=name, **metrics) for name, metrics in rows.items()]
    console.print(make_table(table, COLUMNS, title='One network under several gates'))
    console.print(
        f'1 MAC = 1 FLOP, as the papers count. Table: {out_dir / "gates.json"}, picture: {out_dir / "gates.png"}'
    )
