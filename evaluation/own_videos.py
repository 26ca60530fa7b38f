"""One's own videos and a trained model: two or more aligned, or phases carried over to a folder.

    evaluate.py CHECKPOINT --align A.mp4 B.mp4     -> align_files
    evaluate.py CHECKPOINT --predict DIR           -> predict_folder
"""
from pathlib import Path

import data
from datasets.folder import as_video
from datasets.search import Search
from datasets.segments import frame_times
from datasets.video import DataError
from evaluation.embedding import embed_all, evaluating, file_names
from pictures.align import align
from pictures.predict import predict


def embed_whole(network, videos, settings):
    """All frames of videos -> [EmbeddedVideo], [(n, D)], {video: why it cannot be read}."""
    device = next(network.mtf.parameters()).device
    limit = data.DATASETS[settings['dataset']].limit
    workers = settings['workers']
    with evaluating([network]):
        embedded, embeddings, skipped = embed_all(
            {'': network}, videos, limit=limit, device=device, workers=workers)
    return embedded, embeddings[''], skipped


def video_at(path, size=None):
    """A video file or a folder of frames; squashed to size x size, if given."""
    make = data.frame_folder if path.is_dir() else data.video_file
    return make(path.name, path, size)


def times_of(path, frames):
    """Seconds of each frame; None for a folder of images, which has no clock."""
    return None if path.is_dir() else frame_times(path, frames)


def align_files(network, settings, paths, out, method='dtw'):
    """The first video and the others, matched to it -> notes. Writes the film `out` and its table.

    The model sees each whole frame squashed, as in training on one's own videos; the film shows it
    as it is. Errors: DataError, OSError.
    """
    paths = [Path(path) for path in paths]
    size = network.backbone.image_size
    squashed = [video_at(path, size) for path in paths]
    _, embeddings, skipped = embed_whole(network, squashed, settings)
    if skipped:
        raise DataError(next(iter(skipped.values())))
    videos = [video_at(path) for path in paths]
    times = [times_of(path, video.frames) for path, video in zip(paths, videos)]
    return align(videos, embeddings, out, times=times, method=method)


def predict_folder(network, settings, labelled, embeddings, folder, out, fit):
    """Phases for the videos of a folder -> notes. Writes a table and a picture of each into `out`.

    labelled: [EmbeddedVideo] with their embeddings [(m, D)], those of training; fit(x, y) -> a
    classifier. A video's action is the folder it lies in. Errors: DataError, OSError.
    """
    folder = Path(folder)
    search = Search(folder)
    found = [each._replace(labels=None) for each in search.below(folder)]
    if not found:
        raise DataError(f'{folder}: no video in it')
    size = network.backbone.image_size
    videos = [as_video(each, size, None, None) for each in found]
    embedded, others, skipped = embed_whole(network, videos, settings)
    readable = [one.video for one in embedded]
    if not readable:
        first = next(iter(skipped.values()))
        raise DataError(f'{folder}: no video can be read: {first}')
    place = {video: each.path for video, each in zip(videos, found)}
    times = [times_of(place[video], video.frames) for video in readable]
    paths = [Path(out, name) for name in file_names(readable)]
    notes = predict(labelled, embeddings, readable, others, paths, fit=fit, times=times)
    notes += [f'left out: {why}' for why in skipped.values()]
    return notes + search.notes()
