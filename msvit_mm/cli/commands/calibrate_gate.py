"""Store in a checkpoint the gate threshold that meets a budget on a set of images.

msvit calibrate-gate CONFIG CHECKPOINT calibrated.pth --coarse-ratio 0.5
"""

from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ...checkpoints import (
    carry_metadata,
    check_checkpoint_name,
    check_new,
    checkpoint_bytes,
    load_checkpoint_safely,
    use_safe_loader,
    write_files,
)
from ...engine.calibration import SIGNS, calibrate_gate
from ...models import GatedModel
from ..config import load_config, seed_of
from ..errors import one_line_errors
from ..images import load_split
from ..models import build_gated_model, check_regions
from ..records import describe_run, json_bytes

GATE = 'backbone.gate.'


def calibrated_checkpoint(path: str, model: GatedModel, report: dict) -> dict:
    """The checkpoint with the model's gate, without its training state and without metrics, which were another gate's.

    Raises:
        ValueError: If it holds weights of another model.
    """
    checkpoint = load_checkpoint_safely(path)
    state, weights = model.state_dict(), dict(checkpoint['state_dict'])
    for key in weights:
        name = key.removeprefix('module.')
        if name not in state:
            raise ValueError(f"checkpoint '{path}': wanted weights of the config's model alone, got {key}.")
        if name.startswith(GATE):
            weights[key] = state[name].cpu()
    meta = dict(checkpoint.get('meta', {}), metrics={}, gate_calibration=report)
    return dict(meta=meta, state_dict=carry_metadata(weights, checkpoint['state_dict']))


def format_report(report: dict) -> str:
    lines = ['wanted     {measure} {wanted:g}, mean of {num_images} images'.format(**report)]
    lines += ['threshold  {threshold:.6g}, which is 0 now'.format(**report)]
    for name in ('before', 'after'):
        costs = 'coarse ratio {coarse_ratio:.4f}, tokens {num_tokens:.2f}, GMACs {gmacs:.5g}'.format(**report[name])
        lines.append(f'{name:11}{costs}')
    return '\n'.join(lines)


def main(args: Namespace) -> None:
    use_safe_loader()
    console = Console()
    output = Path(args.output)
    paths = output, output.with_suffix('.json')
    measure, wanted = next((name, getattr(args, name)) for name in SIGNS if getattr(args, name) is not None)
    with one_line_errors():
        check_checkpoint_name(output)
        check_new(paths, args.overwrite, [args.config, args.checkpoint])
        cfg = load_config(args.config, args.cfg_options)
        model = build_gated_model(cfg, args.checkpoint, args.device)
        check_regions(model, cfg)
        calibrated_checkpoint(args.checkpoint, model, {})  # another model's fails before the images take their time
        images = load_split(cfg, args.split, args.num_images, args.images)
        report = calibrate_gate(model, track(images, 'predicting', console=console), measure, wanted)
        report |= dict(images=args.images or f'{args.split} data set')
        checkpoint = calibrated_checkpoint(args.checkpoint, model, report)

    record = report | describe_run(vars(args), seed_of(cfg), args.device)
    with one_line_errors():
        write_files(dict(zip(paths, (checkpoint_bytes(checkpoint), json_bytes(record)), strict=True)))
    console.print(format_report(report), highlight=False)
    console.print(f'written    {paths[0]}, {paths[1]}', highlight=False, soft_wrap=True)
