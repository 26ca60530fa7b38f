"""One's own videos through a trained model: aligned with each other, or their phases predicted.

    python evaluate.py CHECKPOINT --align A.mp4 B.mp4     align_files
    python evaluate.py CHECKPOINT --predict DIR           predict_folder

They are embedded as those of a folder set are, squashed to the model's square, and shown in their
own shape. Errors, each one line: UserError, OSError.
"""
from dataclasses import replace
from functools import partial

import torch.nn.functional as F

import data
from datasets.folder import as_video
from datasets.layout import printable, readable
from datasets.search import Search
from evaluation.embedding import embed_all, evaluating
from evaluation.labels import has_labels
from evaluation.table import name_some
from pictures.align import align
from pictures.predict import predict, teacher_of, teachers
from running.errors import UserError
from running.processes import is_rank0

SHOWN = 240    # pixels, the height of a video in a film or picture


def embed(network, videos, settings, what):
    """-> [EmbeddedVideo], [(n_i, D)], {video: why it cannot be read}; all in rank 0.

    Each video is one sequence, however long: two halves with a time code each could not be told
    from two videos.
    """
    limit = settings.get('limit') or data.DATASETS[settings['dataset']].limit
    device = next(network.mtf.parameters()).device
    with evaluating([network]):
        embedded, embeddings, skipped = embed_all(
            {'model': network}, videos, what=what, limit=limit, whole=True, device=device,
            workers=settings['workers'])
    for record in embedded:
        step = data.stride(record.frames, limit)
        if step > 1:
            note = (f'note: {record.video.name}: of {record.frames} frames one in {step} is '
                    f'embedded; those between are interpolated')
            print(printable(note))
    return embedded, embeddings['model'], skipped


def in_own_shape(video):
    """The video in its own shape, but no larger than it is shown: a phone's are 8 megapixels."""
    return replace(video, decode=partial(smaller, video.decode))


def smaller(decode, indices):
    for frame in decode(indices):
        height, width = frame.shape[1:]
        if height > SHOWN:
            size = SHOWN, max(1, round(width * SHOWN / height))
            frame = F.interpolate(frame[None], size, mode='bilinear', antialias=True)[0]
        yield frame


# --------------------------------------------------------------------------------------------------
# --align

def align_files(network, settings, paths, out, method):
    """Write a film and a table of the first video and the frames of the others that match its."""
    videos = [video_at(path, network.backbone.image_size) for path in paths]
    _, embeddings, skipped = embed(network, videos, settings, 'align')
    if not is_rank0():
        return
    for reason in skipped.values():
        raise UserError(f'{reason}; leave it out or mend it')
    videos = [in_own_shape(video_at(path)) for path in paths]
    times = [video.seconds() for video in videos]
    for note in align(videos, embeddings, out, times=times, method=method):
        print(printable(note))
    print(printable(f'written: {out}, {out.with_suffix(".csv")}'))


def video_at(path, size=None):
    """A video file or a folder of frames, named by its folder and its own name."""
    name = readable(path, path.parent.parent)
    if path.is_dir():
        return data.frame_folder(name, path, size)
    return data.video_file(name, path, size)


# --------------------------------------------------------------------------------------------------
# --predict

def predict_folder(network, settings, train, folder, out, fit, clock):
    """Write a table and a picture of the phases of each video in a folder and its sub-folders.

    train: [Video], those labelled teach; fit, clock: of evaluate.py.
    """
    sources = find(folder, network.backbone.image_size)
    train = [video for video in train if has_labels(video)]
    if not train:
        raise UserError('no video of the training set has labels, to carry over to others')
    actions = {video.action: None for video in train}
    for video in sources:
        teacher_of(video, actions)    # now, and not after hours of work
    labelled, known, broken = embed(network, train, settings, 'labelled')
    embedded, embeddings, skipped = embed(network, list(sources), settings, 'predict')
    if not is_rank0():
        return
    for note in name_some('left out, cannot be read', (broken | skipped).values()):
        print(printable(f'note: {note}'))
    if not embedded:
        raise UserError(f'{folder}: none of its videos can be read')
    videos = [sources[record.video] for record in embedded]
    times = [video.seconds() for video in videos]
    paths = [out / video.name for video in videos]
    clocks = [clock(record.frames)[record.kept] for record in labelled]
    shares = {action: one.accuracy for action, one in teachers(labelled, clocks, fit).items()}
    for note in predict(labelled, known, videos, embeddings, paths, fit=fit, times=times,
                        clock=shares):
        print(printable(note))
    print(printable(f'written: {len(paths)} tables and pictures below {out}'))


def find(folder, size):
    """{Video to embed: the same to be shown} of a folder, and a line on what is passed over."""
    search = Search(folder)
    found = search.below(folder)
    for note in search.notes():
        print(printable(note))
    if not found:
        raise UserError(f'{folder}: no video in it')
    beside = sum(source.labels is not None for source in found)
    if beside:
        print(f'note: labels beside {beside} of the videos are not used')
    sources = {}
    for source in found:
        source = source._replace(labels=None)    # they would hide the other frames
        shown = in_own_shape(as_video(source, None))
        shown.action = source.action or folder.resolve().name
        video = replace(as_video(source, size), action=shown.action)
        sources[video] = shown
    return sources
