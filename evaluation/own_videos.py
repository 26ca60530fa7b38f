"""One's own videos through a trained model: evaluate.py's --align and --predict.

Embedded as those of a folder set are, squashed to the model's square; shown in their own shape.
Each is one sequence, however long: two halves with a position code each could not be told from two
videos.
Errors, each one line: UserError, OSError.
"""
from datasets.folder import Search, as_video, video_at
from datasets.layout import readable, say
from evaluate import clock, fit_classifier
from evaluation.embedding import embed_splits
from evaluation.table import name_some
from pictures.align import align
from pictures.predict import predict, teacher_of, teachers
from running.errors import UserError
from running.processes import is_rank0


def align_files(network, settings, paths, out, method):
    """Write a film and a table of the first video and the frames of the others that match its."""
    size = network.backbone.image_size
    names = [readable(path, path.parent.parent) for path in paths]    # its folder's and its own
    videos = [video_at(name, path, size) for name, path in zip(names, paths)]
    _, embeddings, skipped = embed_splits(
        {'model': network}, {'align': videos}, settings, thin=True)
    if not is_rank0():
        return
    for reason in skipped:
        raise UserError(f'{reason}; leave it out or mend it')
    videos = [video_at(name, path) for name, path in zip(names, paths)]    # in their own shape
    times = [video.seconds() for video in videos]
    for note in align(videos, embeddings['model']['align'], out, times=times, method=method):
        say(note)
    say(f'written: {out}, {out.with_suffix(".csv")}')


def predict_folder(network, settings, train, folder, out):
    """Write a table and a picture of the phases of each video in a folder and its sub-folders.
    train: [Video], of which those with labels teach."""
    sources = find(folder, network.backbone.image_size)
    train = [video for video in train if video.annotate]
    if not train:
        raise UserError('no video of the training set has labels, to carry over to others')
    taught = {video.action: video.action for video in train}
    # {Video: the action that teaches it}, now, and not after hours of work
    actions = {video: teacher_of(video, taught) for video in sources}
    other = [video.name for video, action in actions.items() if action and video.action != action]
    for note in name_some(f'phases of {train[0].action} given to videos of other folders', other):
        say(f'note: {note}')
    train = [video for video in train if video.action in actions.values()]
    videos = {'train': train, 'predict': list(sources)}
    embedded, embeddings, skipped = embed_splits({'model': network}, videos, settings, thin=True)
    if not is_rank0():
        return
    for note in name_some('left out, cannot be read', skipped):
        say(f'note: {note}')
    labelled = embedded['train']
    clocks = [clock(one.frames)[one.kept] for one in labelled]
    known, new = embeddings['model'].values()
    found = teachers(labelled, known, clocks, fit_classifier)
    videos = [sources[one.video] for one in embedded['predict']]
    times = [video.seconds() for video in videos]
    paths = [out / video.name for video in videos]
    for note in predict(found, videos, new, paths, times):
        say(note)
    say(f'written: {len(paths)} tables and pictures below {out}')


def find(folder, size):
    """{Video to embed: the same to be shown} of a folder, and a line on what is passed over."""
    search = Search(folder)
    sources = {}
    for found in search.below(folder):
        found = found._replace(action=found.action or folder.resolve().name)
        sources[as_video(found, size)] = as_video(found, None)
    for note in search.notes():
        say(note)
    if not sources:
        raise UserError(f'{folder}: no video in it')
    return sources
