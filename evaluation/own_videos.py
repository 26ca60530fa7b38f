"""One's own videos through a trained model: aligned with each other, or their phases predicted.

    python evaluate.py CHECKPOINT --align A.mp4 B.mp4     align_files
    python evaluate.py CHECKPOINT --predict DIR           predict_folder

They are embedded as those of a folder set are, squashed to the model's square, and shown in their
own shape. Errors, each one line: UserError, OSError, UserError.
"""
from dataclasses import replace
from functools import partial

import torch.nn.functional as F

import data
from datasets.folder import as_video
from datasets.layout import printable, readable
from datasets.search import Search
from datasets.segments import frame_times
from evaluation.embedding import embed_all, evaluating, thinning
from evaluation.table import name_some
from pictures.align import align
from pictures.predict import predict, teacher_of
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
        step = thinning(record.frames, limit)
        if step > 1:
            note = f'of {record.frames} frames one in {step} is embedded; those between are'
            print(printable(f'note: {record.video.name}: {note} interpolated'))
    return embedded, embeddings['model'], skipped


def times_of(path, frames):
    """Seconds of each frame; None for a folder of images, which has no clock."""
    return None if path.is_dir() else frame_times(path, frames)


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
    times = [times_of(path, len(z)) for path, z in zip(paths, embeddings)]
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

def predict_folder(network, settings, train, folder, out, fit):
    """Write a table and a picture of the phases of each video in a folder and its sub-folders.

    train: [Video], those labelled teach; fit: evaluate.fit_classifier.
    """
    sources = find(folder, network.backbone.image_size)
    train = labelled(train)
    actions = {video.action: None for video in train}
    for video in sources:
        teacher_of(video, actions)    # now, and not after hours of work
    teachers, known, broken = embed(network, train, settings, 'labelled')
    embedded, embeddings, skipped = embed(network, list(sources), settings, 'predict')
    if not is_rank0():
        return
    for note in name_some('left out, cannot be read', (broken | skipped).values()):
        print(printable(f'note: {note}'))
    if not embedded:
        raise UserError(f'{folder}: none of its videos can be read')
    videos = []
    times = []
    paths = []
    for record in embedded:
        source = sources[record.video]
        video = in_own_shape(unlabelled(source))
        video.action = record.video.action
        videos.append(video)
        times.append(times_of(source.path, record.frames))
        paths.append(out / source.name)
    for note in predict(teachers, known, videos, embeddings, paths, fit=fit, times=times):
        print(printable(note))
    print(printable(f'written: {len(paths)} tables and pictures below {out}'))


def find(folder, size):
    """{Video: datasets.search.Found} of a folder, and a line on what is passed over."""
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
        video = unlabelled(source, size)
        video.action = source.action or folder.resolve().name
        sources[video] = source
    return sources


def unlabelled(found, size=None):
    """What was found in a folder, as a Video: labels beside it would hide its other frames."""
    return as_video(found._replace(labels=None), size, None, None)


def labelled(videos):
    """Those with labels. Errors: UserError if there are none."""
    kept = []
    for video in videos:
        try:
            if video.labels is not None:
                kept.append(video)
        except UserError:    # labels that do not fit: embedding will skip and name the video
            kept.append(video)
    if not kept:
        raise UserError('no video of the training set has labels, to carry over to others')
    return kept
