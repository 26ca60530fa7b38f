"""The command line of evaluate.py, and what is wrong with it, found before any work begins."""
import argparse
import os
from functools import partial
from pathlib import Path

from datasets.segments import UNITS
from evaluation.labels import fractions
from pictures.align import METHODS
from running.errors import UserError

TABLE_FLAGS = ('fractions', 'focus', 'figures', 'embeddings', 'json')  # that go with the table


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description='Embed every frame, print four metrics beside two controls, draw attention. '
                    "Or look at one's own videos.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=30, width=110),
        usage='%(prog)s CHECKPOINT [CHECKPOINT ...] [options]', allow_abbrev=False)
    parser.add_argument(
        'checkpoints', nargs='+', metavar='CHECKPOINT', type=Path,
        help='of train.py; several of one data set: mean ± 2 standard deviations')

    add = parser.add_argument_group('where things are').add_argument
    add('--dataset', metavar='NAME', help='the data set [that of training]')
    add('--data', metavar='DIR', help='its folder [where it was at training]')
    add('--data-seed', metavar='N', type=natural,
        help='draws a set made in memory [as at training]')
    add('--label-unit', metavar='UNIT', choices=UNITS,
        help='of labels that are segments: seconds or frames [as at training]')
    add('--weights', metavar='FILE',
        help='of the frozen backbone [as at training]')
    add('--workers', metavar='N', type=natural,
        help='processes that decode videos [as at training]')
    add('--device', metavar='NAME',
        help='cuda, mps or cpu [the best there is]')

    add = parser.add_argument_group('what to make beside the table').add_argument
    add('--fractions', metavar='F,F,...', type=fractions,
        help='a table: classification from parts of the train labels, as 0.1,0.5,1')
    add('--focus', action='store_true',
        help='a table: how much attention lies on the actor')
    add('--figures', metavar='DIR', type=Path,
        help='all pictures of the first checkpoint [entities.png beside it alone]')
    add('--embeddings', metavar='DIR', type=Path,
        help='one float32 array (n, D) a video: DIR/train/*.npy, DIR/val/*.npy')
    add('--json', metavar='FILE', type=Path,
        help='all numbers')

    add = parser.add_argument_group("one's own videos, instead of the table").add_argument
    add('--align', metavar='VIDEO', type=Path, nargs='+',
        help='a film: the first video, and the same moment of each other one')
    add('--method', choices=list(METHODS),
        help='how they are matched [dtw]')
    add('--predict', metavar='DIR', type=Path,
        help='phases of the videos in DIR, from the labelled ones of training')
    add('--out', metavar='PATH', type=Path,
        help='of the film [aligned.mp4], or folder of the phases [predicted]')
    return parser.parse_args(argv)


def natural(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text}: must be a whole number, at least 0')
    return int(text)


def check(args):
    """Errors: UserError, OSError, each one line."""
    check_flags(args)
    folders = [args.figures, args.embeddings]
    if args.json:
        if args.json.suffix != '.json' or args.json.is_dir():
            raise OSError(f'{args.json}: --json writes a file; let its name end in .json')
        folders.append(args.json.parent)
    if args.align:
        args.out = args.out or Path('aligned.mp4')
        args.method = args.method or 'dtw'
        check_alignment(args)
        folders.append(args.out.parent)
    if args.predict:
        args.out = args.out or Path('predicted')
        check_prediction(args)
        folders.append(args.out)
    for folder in filter(None, folders):
        folder.mkdir(parents=True, exist_ok=True)  # now, and not after hours of work
        if not os.access(folder, os.W_OK):
            raise OSError(f'{folder}: cannot be written to')


def check_flags(args):
    """Every flag does something, or is refused."""
    if args.align and args.predict:
        raise UserError('--align and --predict: one at a time')
    if args.method and not args.align:
        raise UserError('--method goes with --align')
    if args.align or args.predict:
        check_table_flags(args, '--align' if args.align else '--predict')
    elif args.out:
        raise UserError('--out goes with --align or --predict')


def check_table_flags(args, own):
    if len(args.checkpoints) > 1:
        raise UserError(f'{own} takes one checkpoint, not {len(args.checkpoints)}')
    for flag in TABLE_FLAGS:
        if getattr(args, flag):
            raise UserError(f'--{flag} goes with the table, not with {own}')


def check_alignment(args):
    if len(args.align) < 2:
        raise UserError(f'--align {args.align[0]}: takes two videos or more')
    for path in args.align:
        if not path.exists():
            raise OSError(f'{path}: no such video')
    if args.out.suffix != '.mp4' or args.out.is_dir():
        raise OSError(f'{args.out}: --out writes a film; let its name end in .mp4')
    if args.out.resolve() in [path.resolve() for path in args.align]:
        raise OSError(f'{args.out}: is one of the videos; give another name by --out')


def check_prediction(args):
    if not args.predict.is_dir():
        raise OSError(f'{args.predict}: is no folder; --predict takes a folder of videos')
    if args.out.resolve() == args.predict.resolve():
        raise OSError(f'{args.out}: would be mixed with the videos; give another one by --out')
