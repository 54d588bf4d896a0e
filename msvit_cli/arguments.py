"""What every command takes: a function for each, which adds its arguments to a parser.

Nothing heavy is imported here, so that ``--help`` and mistakes are answered at once.
"""

import sys
from argparse import ArgumentParser, ArgumentTypeError, _ArgumentGroup
from collections.abc import Callable
from typing import Any

try:
    from mmengine.config import DictAction
except ImportError:
    raise SystemExit(
        "error: msvit needs mmengine and the other mm packages; install with `pip install 'msvit_mm[onedl]'`."
    ) from None


class Options(DictAction):
    """mmengine's, which also says what is no KEY=VALUE, and keeps the spaces of a word."""

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        is_word = ' ' in val.strip() and not set(val) & set('()[],')
        return val if is_word else DictAction._parse_iterable(val)

    def __call__(self, parser: ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for item in values:
            key, sign, _ = item.partition('=')
            if not sign or not key or key != key.strip():
                parser.error(f'{option_string}: wanted KEY=VALUE without spaces around =, got {item!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            parser.error(
                f'{option_string}: wanted as many brackets closed as opened, got {" ".join(values)!r}; {error}'
            )


def number(kind: type[int] | type[float], low: float, high: float, wanted: str) -> Callable[[str], float]:
    """What reads a number from ``low`` to ``high``, or says what was wanted."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not low <= value <= high:  # neither is NaN
            raise ArgumentTypeError(f'wanted {wanted}, got {text!r}')
        return value

    return read


LARGEST, SMALLEST = sys.float_info.max, sys.float_info.min
count = number(int, 1, LARGEST, 'a whole number of at least 1')
whole = number(int, 0, LARGEST, 'a whole number of at least 0')
positive = number(float, SMALLEST, LARGEST, 'a number above 0')
amount = number(float, 0, LARGEST, 'a number of at least 0')
share = number(float, 0, 1, 'a number from 0 to 1')
resizing = number(float, 0.1, 10, 'a factor from 0.1 to 10')
port = number(int, 1, 65535, 'a whole number from 1 to 65535')

SHARED: dict[str, dict[str, Any]] = {
    'config': dict(help='a file, or the name of a config of this package, such as msvit_upernet_scenes'),
    '--cfg-options': dict(
        nargs='+', action=Options, help='override config entries: key=value, key="[a,b]", randomness.seed=0'
    ),
    '--work-dir': dict(help='directory of logs, metrics and checkpoints; default work_dirs/<config name>'),
    '--launcher': dict(choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='what starts the processes'),
    '--device': dict(choices=['auto', 'cpu', 'cuda'], default='auto', help='auto: a GPU where there is one'),
    'images': dict(help='an image file, or a folder of them'),
    '--images': dict(help='an image file, or a folder of them, instead of the images of the config'),
    '--out': dict(help='JSON file of the table'),
    '--overwrite': dict(action='store_true', help='replace an existing file'),
}


def add_shared(parser: ArgumentParser | _ArgumentGroup, *names: str) -> None:
    """Add arguments that several commands take, as all of them name and explain them.

    Args:
        names: Some of ``SHARED``.
    """
    for name in names:
        parser.add_argument(name, **SHARED[name])


def add_benchmark(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options')
    parser.add_argument('checkpoint', nargs='?', help="adds the gate's own decisions")
    parser.add_argument('--batch-sizes', type=count, nargs='+', default=[1, 4])
    parser.add_argument('--size', type=count, nargs=2, metavar=('H', 'W'), help="default the backbone's img_size")
    ratios = 'of random decisions: coarse ratios, or costs of routes relative to PVTv2'
    parser.add_argument('--ratios', type=amount, nargs='+', default=[0.25, 0.5, 0.75], help=ratios)
    parser.add_argument('--executions', nargs='+', help='such as packed, padded, masked, with --train counterfactual')
    parts = ['whole', 'backbone', 'blocks']
    parser.add_argument('--parts', nargs='+', choices=parts, help='default all; blocks: in inference alone')
    parser.add_argument('--train', action='store_true', help='time forward and backward')
    parser.add_argument('--repeats', type=count, default=10, help='rounds, after two of warm-up')
    add_shared(parser, '--images', '--device')
    parser.add_argument('--threads', type=count, default=1, help='on the CPU')
    add_shared(parser, '--out', '--overwrite')


def add_calibrate_gate(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options')
    parser.add_argument('checkpoint')
    parser.add_argument('output', metavar='OUT', help='the checkpoint to write, its report beside it as JSON')
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument('--coarse-ratio', type=share, metavar='R', help='share of coarse regions, in [0, 1]')
    budget.add_argument('--num-tokens', type=positive, metavar='N', help='active patch tokens per image')
    budget.add_argument('--gmacs', type=positive, metavar='G', help='multiply-adds of the model per image, in 1e9')
    images = parser.add_mutually_exclusive_group()
    add_shared(images, '--images')
    images.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='whose images to take')
    parser.add_argument('--num-images', type=count, default=64, help='evenly spaced over the data set')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing OUT and its report')
    add_shared(parser, '--device')


def add_check_dataset(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options')
    parser.add_argument('--split', choices=['train', 'val', 'test'], help='one split; default train and val')
    parser.add_argument('--num-images', type=count, default=200, help='evenly spaced over a split; default %(default)s')
    parser.add_argument('--out', help='PNG file of the sheet of examples')
    add_shared(parser, '--overwrite')


def add_compare_gates(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options', '--work-dir')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--beside',
        nargs=3,
        action='append',
        default=[],
        metavar=('NAME', 'CONFIG', 'CHECKPOINT'),
        help='one more network for table and picture',
    )
    parser.add_argument('--out-dir', help='folder of gates.json and gates.png; default <work dir>/gates')
    parser.add_argument('--num-images', type=count, default=5, help='images in the picture')
    parser.add_argument('--overwrite', action='store_true', help='replace existing gates.json and gates.png')


def add_convert_checkpoint(parser: ArgumentParser) -> None:
    parser.add_argument('source', metavar='SRC', help='a torch or .safetensors file')
    parser.add_argument('target', metavar='DST', help="the file to write, for the backbone's init_cfg")
    group = parser.add_mutually_exclusive_group()
    group.add_argument('--config', help='config, or its name, whose backbone is the target')
    group.add_argument('--arch', help="name of the host's architecture; default: the one that has the weights' sizes")
    size = "H [W] in pixels; default: keeps the source's positions, of a Swin as its windows say"
    parser.add_argument('--img-size', type=count, nargs='+', help=size)
    parser.add_argument('--patch-size', type=count, help='pixels, of plain ones; default 16')
    parser.add_argument('--coarse-patch-size', type=count, help='pixels; default twice the patch size')
    parser.add_argument('--patch-sizes', type=count, nargs='+', help='of all scales, ascending, instead of these two')
    grid = "rows and columns of the source's positions; default: by the kept config, or else square"
    parser.add_argument('--source-grid', type=count, nargs=2, help=grid)
    parser.add_argument('--prefix', help='which one, if the file holds several backbones')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing DST')


def add_demo(parser: ArgumentParser) -> None:
    parser.add_argument('checkpoints', nargs='+', metavar='checkpoint')
    add_shared(parser, '--device')
    parser.add_argument('--host', default='127.0.0.1', help='where to listen; default %(default)s, this machine alone')
    parser.add_argument('--port', type=port, help='default: the first free one from 7860')


def add_export(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options')
    parser.add_argument('checkpoint')
    parser.add_argument('output', metavar='OUT', help='NAME.onnx; written are NAME-<budget>.onnx and NAME.onnx.json')
    parser.add_argument('--format', choices=['onnx', 'pt2'], help='default: by the suffix of OUT')
    parser.add_argument('--token-budget', type=positive, nargs='+', metavar='N', help='patch tokens of every image')
    parser.add_argument(
        '--size', type=count, nargs=2, required=True, metavar=('H', 'W'), help='of the images in pixels'
    )
    parser.add_argument('--batch-size', type=count, default=1)
    parser.add_argument('--with-gate', action='store_true', help='the gate alone, too, to pick a budget for each image')
    parser.add_argument('--backbone', action='store_true', help='the backbone alone, to its maps')
    add_shared(parser, '--images')
    parser.add_argument('--time', type=count, metavar='ROUNDS', help='time the files beside the exported dense network')
    parser.add_argument('--overwrite', action='store_true', help='replace existing files of these names')


def add_fit_gate(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options')
    parser.add_argument('checkpoint', help='of the network that the gate is for, dense or with a gate')
    parser.add_argument('output', metavar='OUT', help='the checkpoint to write, for load_from, its report beside it')
    targets = ['boundary', 'utility', 'uncertainty', 'scales']
    parser.add_argument(
        '--target',
        nargs='+',
        choices=targets,
        default=targets[:1],
        help='fine is where a class boundary lies; where fine wins most of the loss; without labels: where the dense '
        'network is uncertain; where its features differ most from those of coarse tokens. Several: their losses add '
        f'up. Default {targets[0]}',
    )
    parser.add_argument('--coarse-ratio', type=share, metavar='R', help="default: what the config's losses ask for")
    parser.add_argument('--steps', type=count, default=500, help='default %(default)s')
    parser.add_argument('--batch-size', type=count, default=8, help='images of a step; default %(default)s')
    parser.add_argument('--lr', type=positive, default=2e-3, help='of AdamW; default %(default)s')
    parser.add_argument('--scales', type=resizing, nargs='+', default=[1.0, 0.85], help='of the images; default 1 .85')
    parser.add_argument('--num-images', type=count, default=256, help='of the training set, for the threshold')
    parser.add_argument('--num-val-images', type=count, default=64, help='of the validation set, for the AUC')
    parser.add_argument('--num-workers', type=whole, default=1, help='processes that load images')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing OUT and its report')
    add_shared(parser, '--device')


def add_get_flops(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options')
    parser.add_argument('checkpoint', nargs='?')
    add_shared(parser, '--images')
    parser.add_argument('--num-images', type=count, help='evenly spaced over the data set; default all')
    parser.add_argument('--check', action='store_true', help='compare with what the first image really dispatches')
    add_shared(parser, '--device')
    add_shared(parser, '--out', '--overwrite')


def add_plot_tradeoff(parser: ArgumentParser) -> None:
    parser.add_argument('out_dir', help='folder of points.json, tradeoff.csv and tradeoff.png')
    parser.add_argument(
        '--model', nargs=3, action='append', default=[], metavar=('NAME', 'CONFIG', 'CHECKPOINT'), dest='models'
    )
    parser.add_argument('--list', help='YAML or JSON: a list of name, config, checkpoint and, where wanted, sweeps')
    sweeps = parser.add_argument_group('sweeps of every --model; in the list, each model has its own')
    for name, kind, words in (
        ('--budgets', positive, 'token_budget, kept by every image'),
        ('--coarse-ratios', share, 'by a threshold calibrated on training images'),
        ('--random', share, 'coarse ratios of a RandomGate instead'),
        ('--edges', share, 'coarse ratios of an EdgeGate instead'),
    ):
        sweeps.add_argument(name, type=kind, nargs='+', default=[], help=words)
    parser.add_argument('--tolerance', type=amount, default=2, help='of the boundary F-score, in pixels')
    parser.add_argument(
        '--bootstrap', nargs=2, action='append', default=[], metavar=('A', 'B'), help='names of points: is A above B?'
    )
    parser.add_argument('--time', type=count, metavar='ROUNDS', help='time all points in turns, one image at a time')
    parser.add_argument('--time-images', type=count, help='distinct images to time; default 4')
    parser.add_argument('--threads', type=count, help='on the CPU, while timing; default 1')
    parser.add_argument('--overwrite', action='store_true', help='replace a tradeoff.csv or .png without points.json')
    add_shared(parser, '--device')
    add_shared(parser, '--cfg-options', '--work-dir')


def add_predict(parser: ArgumentParser) -> None:
    parser.add_argument('checkpoint')
    parser.add_argument('images', help='an image file, a folder of them, or a video')
    parser.add_argument('--budget', type=positive, metavar='N', help='active patch tokens of each image, or window')
    parser.add_argument('--config', help='instead of the one in the checkpoint: a file, or a name')
    add_shared(parser, '--cfg-options')
    parser.add_argument('--out-dir', default='predictions', help='folder of pictures and labels; default %(default)s')
    parser.add_argument('--max-frames', type=count, metavar='N', help='of a video; default all')
    add_shared(parser, '--device')
    add_shared(parser, '--out', '--overwrite')


def add_publish_model(parser: ArgumentParser) -> None:
    parser.add_argument('config', help="the run's config")
    parser.add_argument('checkpoint', help='as training wrote it, best in its work directory, with the logs')
    parser.add_argument(
        'output',
        metavar='DST',
        help='a folder for the Hub; or NAME.pth: written are NAME-<hash>.pth and metafile.yml beside',
    )
    parser.add_argument('--format', choices=['pth', 'safetensors'], help='default: safetensors, unless it ends in .pth')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file and entry of this name')


def add_scenes_to_coco(parser: ArgumentParser) -> None:
    parser.add_argument('out_dir', help='a new or empty folder')
    parser.add_argument(
        '--num-images', type=count, nargs=2, metavar=('TRAIN', 'VAL'), default=[4000, 256], help='default %(default)s'
    )
    parser.add_argument(
        '--size', type=count, nargs=2, metavar=('H', 'W'), default=[96, 96], help='in pixels; default %(default)s'
    )
    parser.add_argument('--seed', type=whole, default=0)
    add_shared(parser, '--overwrite')


def add_test(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options', '--work-dir', '--launcher')
    parser.add_argument('checkpoint')
    parser.add_argument('--out', help='directory to save output prediction for offline evaluation')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='directory of painted predictions')
    parser.add_argument('--wait-time', type=amount, help='seconds per window of --show; default 2')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation by the config's tta_pipeline")
    parser.add_argument('--overwrite', action='store_true', help='write into --out or --show-dir beside what is there')


def add_train(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options', '--work-dir', '--launcher')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from this checkpoint; without PATH, from the latest one in the work directory, if there is one',
    )
    parser.add_argument('--amp', action='store_true', help='train with mixed precision (needs a GPU)')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')


def add_transfer_gate(parser: ArgumentParser) -> None:
    parser.add_argument('source_config')
    parser.add_argument('source_checkpoint')
    parser.add_argument('target_config')
    parser.add_argument('output', metavar='DST', help='the file to write, for load_from or init_cfg of the target')
    parser.add_argument('--target-checkpoint', help="the target's other weights, which are written beside the gate")
    add_shared(parser, '--images')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing DST and its report')
    parser.add_argument('--report', help='JSON file of the report; default: beside DST')


def add_visualize_gate(parser: ArgumentParser) -> None:
    add_shared(parser, 'config', '--cfg-options')
    parser.add_argument('checkpoint')
    add_shared(parser, 'images')
    parser.add_argument('--out-dir', default='scale_maps', help='folder of the PNG files, one per image')
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    add_shared(parser, '--device')
