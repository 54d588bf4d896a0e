"""Time packed MSViT beside two token-merging peers, each by its own code, at equal multiply-adds.

    git clone https://github.com/facebookresearch/ToMe && git -C ToMe checkout af95e4b
    git clone https://github.com/tue-mps/algm-segmenter && git -C algm-segmenter checkout 674eaa2
    python tools/benchmark_peers.py --tome ToMe --algm algm-segmenter --out peers.json

ToMe needs timm, ALGM timm and einops. All networks are ViT-S of random weights; at least one peer has to be given.
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence

from msvit_cli.arguments import add_shared, count, share


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('--tome', metavar='PATH', help='clone of facebookresearch/ToMe')
    parser.add_argument('--algm', metavar='PATH', help='clone of tue-mps/algm-segmenter')
    parser.add_argument('--batch-sizes', type=count, nargs='+', default=[1, 4])
    parser.add_argument('--ratio', type=share, default=0.667, help='coarse ratio; .667: half of the tokens')
    parser.add_argument('--size', type=count, default=512, help='side of the images in pixels, a multiple of 32')
    add_shared(parser, '--images', '--device')
    parser.add_argument('--repeats', type=count, default=10, help='rounds, after two of warm-up')
    parser.add_argument('--threads', type=count, default=1, help='on the CPU')
    add_shared(parser, '--out', '--overwrite')
    return parser.parse_args(argv)


if __name__ == '__main__':
    args = parse_args()
    from peers.study import main  # not before: it takes seconds

    main(args)
