"""What lies in a folder of one's own: video files, folders of images, labels, and what is not used.

A folder that holds images and no video file is a video, its images the frames. What is passed over
is kept with the reason, so that nothing is lost in silence.
"""
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from datasets.classes import CLASS_FILES
from datasets.images import IMAGE_FILES, natural
from datasets.labels import LABEL_FILES
from datasets.layout import NOTE, readable, shortened
from datasets.video import VIDEO_FILES


class Found(NamedTuple):
    """A video: a file, or a folder of frames, and the file of its labels or None."""
    path: Path
    root: Path             # the folder below which it was found
    frames: tuple = ()     # the images of a folder
    labels: Path | None = None

    @property
    def name(self):
        return readable(self.path, self.root)

    @property
    def action(self):
        """The folder in which it lies gives its name to the action."""
        parent = self.path.parent
        return None if parent == self.root else readable(parent, parent.parent)

    @property
    def stem(self):
        return self.path.name if self.frames else self.path.stem

    @property
    def files(self):
        return self.frames or (self.path,)


def by_name(path):
    """A key for sorting: frame 2 before frame 10."""
    return natural(path.name)


class Search:
    """Looks for videos below some folders; `unused` is what it passes over: {reason: [paths]}."""

    def __init__(self, top):
        self.top = top
        self.unused = defaultdict(list)
        self.entered = set()            # folders, as the file system numbers them
        self.namesakes = []             # videos that have a label file in common

    def below(self, root):
        """The videos below a folder, by name."""
        label_files = []
        found = self.enter(root, root, label_files)
        found = self.with_labels(found, label_files)
        return sorted(found, key=by_name)

    def enter(self, here, root, label_files):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in self.entered:
            self.unused['a link to a folder that is used already'].append(here)
            return []
        self.entered.add((status.st_dev, status.st_ino))
        folders, files = self.contents(here)
        videos = [file for file in files if file.suffix.lower() in VIDEO_FILES]
        images = [file for file in files if file.suffix.lower() in IMAGE_FILES]
        for file in files:
            if file.suffix.lower() in LABEL_FILES:
                label_files.append(file)
            elif file not in videos and file not in images:
                self.unused['neither video, image nor labels'].append(file)
        if images and not videos and here != root:
            for folder in folders:
                self.pass_over(folder, 'in a folder inside a folder of frames')
            frames = self.one_series(here, images)
            return [Found(here, root, tuple(frames))] if frames else []
        if images:
            why = 'images beside videos' if videos else 'images that are in no folder of their own'
            self.unused[why] += images
        found = [Found(video, root) for video in videos]
        for folder in folders:
            found += self.enter(folder, root, label_files)
        return found

    def contents(self, folder):
        """Sub-folders and files, links after what they may lead to."""
        try:
            paths = sorted(folder.iterdir(), key=by_name)
            paths.sort(key=Path.is_symlink)
        except OSError as error:
            self.unused[f'cannot be listed ({error.strerror})'].append(folder)
            return [], []
        folders = []
        files = []
        for path in paths:
            if path.name.startswith('.'):
                self.unused['hidden'].append(path)
            elif path.is_dir():
                folders.append(path)
            elif path.is_file():
                files.append(path)
            else:
                self.unused['not a file, or a link that leads nowhere'].append(path)
        return folders, files

    def pass_over(self, path, why):
        """Name a file, or all files below a folder."""
        if path.is_dir():
            self.unused[why] += [file for file in path.rglob('*') if file.is_file()]
        else:
            self.unused[why].append(path)

    def one_series(self, folder, images):
        """The frames of a video, whose names differ in the last number only; [] if there are
        several such series."""
        series = defaultdict(list)
        for image in images:
            before, number, after = re.fullmatch(r'(.*?)(\d*)(\D*)', image.stem).groups()
            key = (before.lower(), after.lower()) if number else None
            series[key].append(image)
        long = [key for key in series if key and len(series[key]) > 1]
        if not long:
            return sorted(images, key=by_name)
        frames = sorted(series[long[0]], key=by_name)
        numbers = {int(re.findall(r'\d+', frame.stem)[-1]) for frame in frames}
        if len(long) > 1 or len(numbers) < len(frames):
            self.unused['frames of several series in one folder; give each its own'] += images
            return []
        self.unused['not of the numbered series in a folder of frames'] += set(images) - set(frames)
        return frames

    def with_labels(self, found, label_files):
        """Give each video the label file beside it that has its name."""
        beside = defaultdict(list)
        for ending in LABEL_FILES:
            for file in label_files:
                if file.suffix.lower() == ending:
                    beside[file.parent, file.stem].append(file)
        used = set()
        labelled = []
        count = Counter((video.path.parent, video.stem) for video in found)
        for video in found:
            place = video.path.parent, video.stem
            if count[place] > 1:
                self.namesakes.append(readable(video.path, self.top))
            files = beside.get(place, [])
            used.update(files)
            self.unused['a second file of labels for one video'] += files[1:]
            labelled.append(video._replace(labels=files[0] if files else None))
        classes = [self.top / name for name in CLASS_FILES]
        for file in label_files:
            if file not in used and file not in classes:
                self.unused['no video or folder of images of this name beside it'].append(file)
        return labelled

    def notes(self):
        """What is not used: a line for each reason, with endings and numbers."""
        lines = []
        for why, paths in self.unused.items():
            if paths:
                endings = Counter(path.suffix.lower() or 'without ending' for path in paths)
                counts = ', '.join(f'{endings[ending]} {ending}' for ending in sorted(endings))
                names = shortened(sorted(readable(path, self.top) for path in paths))
                lines.append(f'{NOTE}not used, {why}: {counts} ({names})')
        if self.namesakes:
            lines.append(f'{NOTE}of one name, but each used: {shortened(sorted(self.namesakes))}')
        return lines
