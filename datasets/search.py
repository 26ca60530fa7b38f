"""What lies in a folder of one's own: video files, folders of images, labels, and what is not used.

A folder that holds images and no video file is a video, its images the frames; a file of many
images (a TIFF stack, an animated WebP) is a video too. What is passed over is kept with the reason,
so that nothing is lost in silence.
"""
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from datasets.images import IMAGE_FILES, natural, stack_pages
from datasets.labels import CLASS_FILES, LABEL_FILES
from datasets.layout import NOTE, readable, shortened
from datasets.video import VIDEO_FILES

STACKS = {'.tif', '.tiff', '.webp', '.png'}    # endings of files that may hold many images
DATE = r'(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d'
TIME = rf'(?:{DATE}[-_. T]*)?\d\d[-_.:h]?\d\d[-_.:m]?\d\d(?:[-_.,]\d+)?s?|\d+\.\d+'


class Found(NamedTuple):
    """A video: a file, or a folder of frames, and the file of its labels or None."""
    path: Path
    root: Path             # the folder below which it was found
    frames: tuple = ()     # the images of a folder
    labels: Path | None = None
    stack: bool = False    # a file of many images

    @property
    def name(self):
        return readable(self.path, self.root)

    @property
    def action(self):
        """The folder in which it lies gives its name to the action."""
        parent = self.path.parent
        return None if parent == self.root else readable(parent, parent.parent)

    @property
    def place(self):
        """Where its labels lie, without their ending."""
        return self.path.parent, self.path.name if self.frames else self.path.stem

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
        return sorted(self.with_labels(found, label_files), key=by_name)

    def enter(self, here, root, label_files):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in self.entered:
            self.unused['a link to a folder that is used already'].append(here)
            return []
        self.entered.add((status.st_dev, status.st_ino))
        folders, files = self.contents(here)
        videos = []
        images = []
        for file in files:
            ending = file.suffix.lower()
            if ending in VIDEO_FILES:
                videos.append(Found(file, root))
            elif ending in IMAGE_FILES:
                images.append(file)
            elif ending in LABEL_FILES:
                label_files.append(file)
            else:
                self.unused['neither video, image nor labels'].append(file)
        stacks = stacks_among(images)
        videos += [Found(file, root, stack=True) for file in images if file in stacks]
        images = [file for file in images if file not in stacks]
        if images and not videos and here != root:
            for folder in folders:
                self.pass_over(folder, 'in a folder inside a folder of frames')
            frames = self.one_series(images)
            return [Found(here, root, tuple(frames))] if frames else []
        if images:
            why = 'images beside videos' if videos else 'images that are in no folder of their own'
            self.unused[why] += images
        for folder in folders:
            videos += self.enter(folder, root, label_files)
        return videos

    def contents(self, folder):
        """Sub-folders and files, links after what they may lead to."""
        try:
            entries = sorted(os.scandir(folder), key=by_name)
        except OSError as error:
            self.unused[f'cannot be listed ({error.strerror})'].append(folder)
            return [], []
        entries.sort(key=os.DirEntry.is_symlink)
        folders = []
        files = []
        for entry in entries:
            path = Path(folder, entry.name)
            if path.name.startswith('.'):
                self.unused['hidden'].append(path)
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_file():
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

    def one_series(self, images):
        """The frames of a video, whose names differ in the last number only, or in the time that
        they give; [] if there are several such series."""
        series = defaultdict(list)
        for image in images:
            series[series_of(image.stem)].append(image)
        long = [key for key in series if key and len(series[key]) > 1]
        if not long:
            return images
        frames = series[long[0]]
        places = {place_in_series(frame.stem) for frame in frames}
        if len(long) > 1 or len(places) < len(frames):
            self.unused['frames of several series in one folder; give each its own'] += images
            return []
        self.unused['not of the numbered series in a folder of frames'] += set(images) - set(frames)
        return sorted(frames, key=lambda frame: place_in_series(frame.stem))

    def with_labels(self, found, label_files):
        """Give each video the label file beside it that has its name."""
        beside = defaultdict(list)
        for file in sorted(label_files, key=lambda file: LABEL_FILES.index(file.suffix.lower())):
            beside[file.parent, file.stem].append(file)
        count = Counter(video.place for video in found)
        used = {self.top / name for name in CLASS_FILES}
        labelled = []
        for video in found:
            if count[video.place] > 1:
                self.namesakes.append(readable(video.path, self.top))
            files = beside.get(video.place, [])
            used.update(files)
            self.unused['a second file of labels for one video'] += files[1:]
            labelled.append(video._replace(labels=files[0] if files else None))
        strangers = [file for file in label_files if file not in used]
        self.unused['no video or folder of images of this name beside it'] += strangers
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


def stacks_among(images):
    """Files of many images. The first of each ending tells: a folder of frames has thousands."""
    stacks = set()
    for ending in STACKS:
        files = [file for file in images if file.suffix.lower() == ending]
        if files and stack_pages(files[0]) > 1:
            stacks.update(file for file in files if stack_pages(file) > 1)
    return stacks


def series_of(stem):
    """What the names of a video's frames have in common; None for a name without a number."""
    before, number, after = re.fullmatch(rf'(.*?(?<!\d))({TIME}|\d+)(\D*)|.*', stem).groups()
    return number and (before.lower(), after.lower())


def place_in_series(stem):
    """A frame's number, or its time as numbers from the largest unit down."""
    number = re.fullmatch(rf'.*?(?<!\d)({TIME}|\d+)\D*', stem)[1]
    if re.fullmatch(r'\d+\.\d+', number):
        return (float(number),)
    return tuple(map(int, re.findall(r'\d+', number)))
