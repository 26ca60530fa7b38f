"""One's own videos through a trained model: evaluate.py's --align and --predict.

Embedded as those of a folder set are, squashed to the model's square; shown in their own shape.
Each is one sequence, however long: two halves with a position code each could not be told from two
videos.
Errors, each one line: UserError, OSError.
"""
from dataclasses import replace
from functools import partial

from datasets.folder import Search, video_at
from datasets.layout import readable, say
from evaluate import clock, fit_classifier
from evaluation.embedding import embed_splits
from evaluation.table import name_some
from pictures.align import align
from pictures.predict import predict, teacher_of, teachers
from running.errors import UserError
from running.processes import is_rank0


def as_filmed(videos):
    """Videos that are squashed to the model's square -> the same in their own shape."""
    return [replace(video, decode=partial(video.decode, size=None)) for video in videos]


def align_files(network, settings, paths, out):
    """Write a film and a table of the first video and the frames of the others that match its."""
    videos = []
    for path in paths:
        name = readable(path, path.parent.parent)    # its folder's and its own
        videos.append(video_at(name, path, network.backbone.image_size))
    _, embeddings, skipped = embed_splits(
        {'model': network}, {'align': videos}, settings, thin=True)
    if not is_rank0():
        return
    for reason in skipped:
        raise UserError(f'{reason}; leave it out or mend it')
    for note in align(as_filmed(videos), embeddings['model']['align'], out):
        say(note)
    say(f'written: {out}, {out.with_suffix(".csv")}')


def predict_folder(network, settings, train, folder, out):
    """Write a table and a picture of the phases of each video in a folder and its sub-folders.
    train: [Video], of which those with labels teach."""
    search = Search(folder, network.backbone.image_size)
    videos = search.below(folder)
    for note in search.notes():
        say(note)
    if not videos:
        raise UserError(f'{folder}: no video in it')
    taught = {video.action: video.action for video in train if video.annotate}
    if not taught:
        raise UserError('no video of the training set has labels, to carry over to others')
    actions = {}                   # which action teaches each: now, and not after hours of work
    for video in videos:
        video.action = video.action or folder.resolve().name
        actions[video] = teacher_of(video, taught)
    other = [video.name for video, action in actions.items() if action and video.action != action]
    action = next(iter(taught))    # the only one there is, where it is given to others
    for note in name_some(f'phases of {action} given to videos of other folders', other):
        say(f'note: {note}')
    train = [video for video in train if video.annotate and video.action in actions.values()]
    embedded, embeddings, _ = embed_splits(
        {'model': network}, {'train': train, 'predict': videos}, settings, thin=True)
    if not is_rank0():
        return
    clocks = [clock(one.frames)[one.kept] for one in embedded['train']]
    known, new = embeddings['model'].values()
    found = teachers(embedded['train'], known, clocks, fit_classifier)
    videos = [one.video for one in embedded['predict']]
    paths = [out / video.name for video in videos]
    for note in predict(found, as_filmed(videos), new, paths):
        say(note)
    say(f'written: {len(paths)} tables and pictures below {out}')
