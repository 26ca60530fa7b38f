"""One's own videos: a folder of video files and of folders of images."""
import os
from functools import partial
from pathlib import Path

from datasets.layout import DataSet, say
from datasets.images import frame_folder, images_in, natural
from datasets.video import VIDEO_FILES, DataError, read_labels, video_file


def folder(data, size):
    """Video files and folders of images, split by train/ and val/; without them every fifth by name is val.

    Labels: one integer a frame in <video>.npy or .txt beside the video. Action: the name of the sub-folder.
    """
    halves = [half for half in ('train', 'val') if (data / half).is_dir()]
    if len(halves) == 1:
        raise DataError(f'folder: {data} has {halves[0]}/ but not the other of train/ and val/')
    if halves:
        return {half: videos_below(data / half, size) for half in halves}, []
    found = videos_below(data, size)
    if len(found) < 10:                                   # tau wants two val videos
        if found:
            say(f'{data}: all of its videos ({len(found)}) are both train and val, too few to set any aside')
        return {'train': found, 'val': found}, []
    say(f'{data}: no train/ and val/ in it, so every fifth video by name is val')
    return {'train': [video for i, video in enumerate(found) if i % 5 < 4], 'val': found[4::5]}, []


def videos_below(root, size):
    """The videos below a folder, by name; the folder one lies in, if not `root` itself, names its action."""
    found = []
    for parent, folders, files in os.walk(root, followlinks=True):
        parent, folders[:] = Path(parent), [name for name in folders if not name.startswith('.')]
        frames = [name for name in folders if images_in(parent / name)]
        folders[:] = [name for name in folders if name not in frames]
        for name in frames + [name for name in files if Path(name).suffix.lower() in VIDEO_FILES]:
            make, stem = (frame_folder, name) if name in frames else (video_file, Path(name).stem)
            labels = [file for end in ('.npy', '.txt') if (file := parent / (stem + end)).exists()]
            if not name.startswith('.'):
                found.append(make(os.fsencode((parent / name).relative_to(root)).decode(errors='replace'),
                                  parent / name, size, action=None if parent == root else parent.name,
                                  annotate=partial(read_labels, labels[0], None) if labels else None))
    return sorted(found, key=lambda video: natural(video.name))


ROW = DataSet(folder, 'Any folder of video files or of folders of images')
