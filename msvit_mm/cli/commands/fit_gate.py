"""Fit a gate before training, in about a minute: to labels, to what the other scale would win, or without labels.

msvit fit-gate CONFIG CHECKPOINT fitted.pth --target boundary
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.progress import track

from ...checkpoints import (
    carry_metadata,
    check_checkpoint_name,
    check_new,
    checkpoint_bytes,
    use_safe_loader,
    write_files,
)
from ...engine.calibration import asked_ratios, calibrate_gate
from ...engine.fitting import LABELLED, check_target, draw_images, fit_gate, judge_gate, sides_of
from ..config import load_config, seed_of
from ..errors import one_line_errors
from ..images import load_split
from ..models import build_gated_model, check_regions, load_target_weights
from ..records import describe_run, json_bytes

GATE = 'backbone.gate.'


def choose_ratios(given: float | None, asked: Sequence[float], num_scales: int) -> Sequence[float]:
    """The ratio of the command for all scales but the smallest, or else those that the config's losses ask for.

    Raises:
        ValueError: If there is none, or one that is not in (0, 1).
    """
    ratios = asked if given is None else [given] * num_scales
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        got = ', '.join(f'{ratio:g}' for ratio in ratios) or 'none, and the config has no gate loss that says one'
        raise ValueError(f'--coarse-ratio: wanted a number between 0 and 1, got {got}')
    return ratios


def main(args: Namespace) -> None:
    use_safe_loader()
    console = Console()
    output = Path(args.output)
    paths = output, output.with_suffix('.json')
    with one_line_errors():
        check_checkpoint_name(output)
        check_new(paths, args.overwrite, [args.config, args.checkpoint])
        cfg = load_config(args.config, args.cfg_options)
        torch.manual_seed(seed_of(cfg))
        model = build_gated_model(cfg, None, args.device)
        check_regions(model, cfg)
        check_target(model, args.target)
        ratios = choose_ratios(args.coarse_ratio, asked_ratios(model), len(sides_of(model)))
        ratio = fmean(ratios)
        weights = load_target_weights(model, args.checkpoint)
        model.load_state_dict(weights, strict=False)
        with_labels = bool(set(args.target) & set(LABELLED))
        images = load_split(cfg, 'train', with_labels=with_labels)
        judged = load_split(cfg, 'val', args.num_val_images, with_labels=with_labels)

        drawn = draw_images(images, args.steps * args.batch_size, args.num_workers)
        model.backbone.gate.requires_grad_(True)  # a gate that the config freezes is fitted, too
        losses = fit_gate(
            model,
            track(drawn, f'fitting to {" and ".join(args.target)}', total=len(drawn), console=console),
            args.target,
            ratios,
            args.batch_size,
            args.steps,
            args.lr,
            args.scales,
        )
        chosen = load_split(cfg, 'train', args.num_images)
        calibration = calibrate_gate(
            model, track(chosen, 'calibrating', console=console), 'coarse_ratio', ratio, with_decoder=False
        )
        auc = judge_gate(model, track(judged, 'judging', console=console), args.target, ratios)

    gate = {f'{GATE}{name}': x.cpu() for name, x in model.backbone.gate.state_dict().items()}
    report = dict(target=args.target, coarse_ratio=ratio, auc=auc, num_val_images=len(judged))
    report |= dict(threshold=calibration['threshold'], first_loss=losses[0], last_loss=losses[-1])
    record = report | describe_run(vars(args), seed_of(cfg), args.device)
    written = dict(meta=dict(gate_fit=report), state_dict=carry_metadata({**weights, **gate}, weights))
    with one_line_errors():
        write_files(dict(zip(paths, (checkpoint_bytes(written), json_bytes(record)), strict=True)))
    got = calibration['after']['coarse_ratio']
    console.print(
        f'coarse     {got:.4f} of the regions of {calibration["num_images"]} training images', highlight=False
    )
    for name, value in auc.items():
        console.print(f'AUC        {value:.3f} against {name}, {len(judged)} validation images', highlight=False)
    console.print(f'written    {paths[0]}, {paths[1]}', highlight=False, soft_wrap=True)
    console.print(f"use        load_from = '{output}'", highlight=False, soft_wrap=True)
