"""The command line of evaluate.py: what is wrong with it, found before any work begins, the models
that it names, and what is made of them."""
import argparse
import os
from pathlib import Path

import data
import evaluate
import model as models
from backbones.build import to_half
from backbones.weights import load_checkpoint, load_trained
from datasets.tables import UNITS
from evaluation.focus import print_focus
from evaluation.table import name_some, print_result, write_json
from pictures import figures
from pictures.align import align_files
from pictures.predict import predict_folder
from running.command import end_well
from running.errors import UserError
from running.processes import half_dtype, join_processes
from running.record import attempt

# alike in all checkpoints, for every frame is decoded once
SAME_FRAMES = ('dataset', 'data', 'data_seed', 'label_unit', 'image_size')
SEED_FLAGS = ('seed', 'out', 'features', 'workers', 'device', 'save_every', 'eval_every',
              'compile')                                  # in which seeds of one model may differ


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description='Four metrics beside the controls, or one\'s own videos.',
        usage='%(prog)s CHECKPOINT [CHECKPOINT ...] [options]', allow_abbrev=False)
    add = parser.add_argument
    add('checkpoints', nargs='+', metavar='CHECKPOINT', type=Path,
        help='or its folder; seeds of one model are one row, with its spread')
    add('--dataset', metavar='NAME', help='the data set [that of training]')
    add('--data', metavar='DIR', help='its folder [where it was at training]')
    add('--label-unit', choices=UNITS, help='unit of segments [as at training]')
    add('--weights', metavar='FILE',
        help='those of the frozen backbone [as at training]')
    add('--workers', metavar='N', type=int,
        help='processes that decode videos [as at training]')
    add('--device', metavar='NAME', help='cuda, mps or cpu [the best there is]')

    add = parser.add_argument_group('beside the table').add_argument
    add('--focus', action='store_true', help='how much attention lies on the actor')
    add('--figures', metavar='DIR', type=Path,
        help='all pictures of the first checkpoint')
    add('--embeddings', metavar='DIR', type=Path,
        help='DIR/val/*.npy, an array (n, D) of each video; its rows: index.csv')
    add('--json', metavar='FILE', type=Path, help='all numbers of the table')

    own = parser.add_argument_group("one's own videos, instead of the table")
    add = own.add_mutually_exclusive_group().add_argument
    add('--align', metavar='VIDEO', type=Path, nargs='+',
        help='a film: the first video, and the same moment of each other one')
    add('--predict', metavar='DIR', type=Path,
        help='phases of the videos in DIR, from the labelled ones of training')
    add = own.add_argument
    add('--out', metavar='PATH', type=Path,
        help='the film [aligned.mp4], or folder of phases [predicted]')
    return parser.parse_args(argv)


def check_arguments(args):
    """Flags that do not go together are refused, and no output replaces a file; --out is filled in,
    and folders are made. Errors: UserError, OSError, each one line."""
    for number, path in enumerate(args.checkpoints):
        if path.is_dir():
            args.checkpoints[number] = path / 'checkpoint.pt'
    if len(set(map(Path.resolve, args.checkpoints))) < len(args.checkpoints):
        raise UserError('one checkpoint is given twice')
    if args.workers and args.workers < 0:
        raise UserError(f'--workers {args.workers}: must be at least 0')
    files = [args.json]
    folders = [args.figures, args.embeddings]
    own = args.align or args.predict
    if args.out and not own:
        raise UserError('--out goes with --align or --predict')
    for flag in ('focus', 'figures', 'embeddings', 'json'):
        if own and getattr(args, flag):
            raise UserError(f'--{flag} goes with the table alone')
    for path in filter(None, [*(args.align or []), args.predict]):
        if not path.exists():
            raise UserError(f'{path}: is not there')
    if own and len(args.checkpoints) > 1:
        raise UserError('--align and --predict take one checkpoint')
    if args.align:
        args.out = args.out or Path('aligned.mp4')
        files = [args.out, args.out.with_suffix('.csv')]
        if len(args.align) < 2:
            raise UserError('--align takes two videos or more')
        if args.out.suffix != '.mp4':
            raise UserError(f'{args.out}: a film; let its name end in .mp4')
    if args.predict:
        args.out = args.out or Path('predicted')
        folders = [args.out]
    for path in filter(None, files + folders):
        if path.is_file() or any(path.glob('*')):
            raise UserError(f'{path}: is there already; move it away, or give another name')
        folder = path.parent if path in files else path
        folder.mkdir(parents=True, exist_ok=True)    # now, and not after hours of work
        if not os.access(folder, os.W_OK):
            raise UserError(f'{folder}: cannot be written to')


def load_models(paths, device, **given):
    """-> {path: model}, {path: its settings}. given: settings in place of those of training, where
    not None. A frozen backbone is one object for all its models, so that every frame passes it
    once. Errors: UserError."""
    given = {name: value for name, value in given.items() if value is not None}
    if 'dataset' in given:    # what belongs to that of training goes
        given = dict(data=None, label_unit=None) | given
    networks = {}
    all_settings = {}
    shared = {}               # backbones, by what they are
    for path in map(str, paths):
        checkpoint = load_checkpoint(path)
        settings = dict(dataset=None, workers=min(4, os.cpu_count()), label_unit=None)
        settings = settings | checkpoint['settings'] | given
        all_settings[path] = settings
        if settings['dataset'] is None:
            raise UserError(f'{path}: says no data set; give its name by --dataset')
        first = next(iter(all_settings.values()))
        for name in SAME_FRAMES:
            value, other = settings.get(name), first.get(name)
            if value != other:
                raise UserError(f'{path}: {name} is {value}, of the first checkpoint {other}; '
                                f'evaluate them one by one, or give --data')
        kind = str([settings[name] for name in ('backbone', 'weights', 'layers')])
        if settings['train_backbone'] or checkpoint['backbone'] is None:
            kind = path       # fine-tuned, or brought by the checkpoint: like no other
        network = models.build_model(settings, shared.get(kind))
        load_trained(network, checkpoint, path)
        network.trained_on = checkpoint.get('videos', ())
        shared[kind] = network.backbone
        networks[path] = network.to(device)
    for path, network in networks.items():    # now that no checkpoint is compared with it any more
        settings = all_settings[path]
        if not settings['train_backbone']:
            to_half(network.backbone, settings['backbone'], half_dtype(device))
    return networks, all_settings


def seeds_together(all_settings):
    """{path: settings} -> {title: [paths that differ in the seed alone]}; the title says what sets
    a group apart from the others, 'mean' where there is one group."""
    groups = {}
    for path, settings in all_settings.items():
        settings = settings | dict(init=settings.get('init') and 'given')    # each seed has its own
        own = [f'{name} {value}' for name, value in settings.items() if name not in SEED_FLAGS]
        groups.setdefault(frozenset(own), []).append(path)
    common = frozenset.intersection(*groups)
    return {', '.join(sorted(own - common)) or 'mean': paths for own, paths in groups.items()}


def run(args):
    """What evaluate.py does. Errors: UserError, OSError, each one line."""
    check_arguments(args)
    _, _, device = join_processes(args.device)
    names = 'dataset', 'data', 'weights', 'label_unit', 'workers'
    given = {name: getattr(args, name) for name in names}
    networks, all_settings = load_models(args.checkpoints, device, **given)
    name, first = next(iter(networks.items()))
    settings = all_settings[name]
    if args.align:
        return align_files(first, settings, args.align, args.out)
    videos = data.load(settings['dataset'], settings['data'],
                       image_size=settings['image_size'], seed=settings['data_seed'],
                       label_unit=settings['label_unit'])
    if args.predict:
        return predict_folder(first, settings, videos['train'], args.predict, args.out)
    result = evaluate.assess(networks, videos, settings, folder=args.embeddings)
    if result is None:
        return
    groups = seeds_together(all_settings)
    # names that a model was trained on, and that are val now and no longer train
    known = set().union(*[network.trained_on for network in networks.values()])
    known -= {video.name for video in videos['train']}
    what = 'val, but one of this name was trained on: if it is the same, trust no score'
    now_val = [video.name for video in videos['val'] if video.name in known]
    result['remarks'] += name_some(what, now_val)
    print_result(result, groups)
    if args.json:
        attempt(args.json, write_json, result, settings, groups, args.json)
    if args.focus:
        both = networks | {'untrained': evaluate.untrained(settings, first)}
        val = [one.video for one in result['embedded']['val']]
        attempt('focus table', print_focus, both, val)
    if args.figures:
        print(f'drawing {args.figures}')
        log = args.checkpoints[0].with_name('log.jsonl')
        attempt('pictures', figures.draw_all, first, result, name, args.figures, log)


def main(argv=None):
    end_well('evaluate.py', run, parse(argv), stopped='stopped')
