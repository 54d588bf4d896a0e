"""Evaluate one trained network under its own gate and under stand-ins of its cost or fixed ones, in one table.

msvit compare-gates CONFIG CHECKPOINT --out-dir work_dirs/gates

The picture shows test images: tokens as outlines, the prediction, of segmentors pale, with wrong pixels in red.
Further networks, each under its own gate, stand beside: --beside dense DENSE_CONFIG DENSE_CHECKPOINT
"""

from argparse import Namespace
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console

from ...checkpoints import check_folder, check_new, use_safe_loader, write_files
from ...datasets.named import SampleError
from ...models import GatedModel, ImageMemoryError
from ...studies.gates import LEARNED, Contender, draw_gates, evaluate_gates, evaluate_own
from ..config import load_config
from ..errors import one_line_errors
from ..models import build_test_runner, check_segmentor
from ..outputs import png_bytes
from ..records import Column, describe_run, json_bytes, make_table

COLUMNS = (
    Column('gate', '{gate}'),
    Column('mIoU', '{mIoU:.2f}'),
    Column('box AP', '{coco/bbox_mAP:.3f}'),
    Column('mask AP', '{coco/segm_mAP:.3f}'),
    Column('boundary mIoU', '{boundary/mIoU:.2f}'),
    Column('coarse ratio', '{coarse_ratio:.3f}'),
    Column('cost / dense', '{cost_ratio:.3f}'),
    Column('AUC', '{auc:.3f}'),
    Column('tokens', '{num_tokens:.1f}'),
    Column('backbone GMACs', '{backbone_gmacs:.4f}'),
    Column('GMACs', '{gmacs:.4f}'),
)


def check_task(model: GatedModel, cfg: Config) -> None:
    """Check that a model segments or detects over a gated backbone.

    Raises:
        ValueError: If not.
    """
    if not hasattr(model, 'roi_head'):
        check_segmentor(model, cfg)


def check_comparable(model: GatedModel, cfg: Config) -> None:
    """Check that a network has a gate of its own to compare with others.

    Raises:
        ValueError: If it is no segmentor or detector over a gated backbone, or its gate has no weights.
    """
    check_task(model, cfg)
    if not any(True for _ in model.backbone.gate.parameters()):
        got = type(model.backbone.gate).__name__
        raise ValueError(f"config '{cfg.filename}': wanted a gate that has learned something, got {got}.")


def build_others(args: Namespace) -> dict[str, Runner]:
    """Runners of the networks of ``--beside``, by name.

    Raises:
        ValueError: If one is no segmentor or detector over a gated backbone, or two have one name.
    """
    names = [name for name, _, _ in args.beside]
    if len({LEARNED, *names}) <= len(names):
        raise ValueError(f"--beside: wanted each name once and none '{LEARNED}', got {', '.join(names)}.")
    others = {}
    for name, config, checkpoint in args.beside:
        cfg = load_config(config, args.cfg_options, args.work_dir)
        others[name] = build_test_runner(cfg, checkpoint)
        check_task(others[name].model, cfg)
    return others


def main(args: Namespace) -> None:
    use_safe_loader()
    console = Console()
    with one_line_errors():
        cfg = load_config(args.config, args.cfg_options, args.work_dir)
        out_dir = Path(args.out_dir or Path(cfg.work_dir) / 'gates')
        paths = out_dir / 'gates.json', out_dir / 'gates.png'
        inputs = [args.config, args.checkpoint, *(file for _, *files in args.beside for file in files)]
        check_new(paths, args.overwrite, inputs)
        check_folder(Path(cfg.work_dir), overwrite=True)
        runner = build_test_runner(cfg, args.checkpoint)
        check_comparable(runner.model, cfg)
        others = build_others(args)

    with one_line_errors(SampleError, ImageMemoryError):
        contenders = evaluate_gates(runner, announce=lambda name: console.print(f'{name} ...'))
        for name, other in others.items():
            console.print(f'{name} ...')
            contenders[name] = Contender(other.model, None, evaluate_own(other))
    rows = {name: contender.metrics for name, contender in contenders.items()}
    device = str(next(runner.model.parameters()).device)
    run = describe_run(vars(args), cfg.randomness['seed'], device)
    picture = png_bytes(draw_gates(contenders, runner.test_dataloader.dataset, args.num_images), dpi=100)
    with one_line_errors():
        write_files(dict(zip(paths, (json_bytes(dict(gates=rows) | run), picture), strict=True)))
    table = [dict(gate=name, **metrics) for name, metrics in rows.items()]
    console.print(make_table(table, COLUMNS, title='One network under several gates'))
    console.print(f'1 MAC = 1 FLOP, as the papers count. Table: {paths[0]}, picture: {paths[1]}')
