"""Which layout of a data set lies in a folder, and where the field gets it."""
import os
import sys

from datasets.video import DataError


PUBLISHED = {'penn': (1140, 966), 'pouring': (70, 14), 'finegym99': (3182, 1442)}  # train and val videos
TCC = 'the release of TCC (temporal cycle-consistency learning)'
CARL = 'the release of CARL (contrastive action representation learning)'
SOURCES = {
    'penn': f'Frames: dreamdragon.github.io/PennAction. Phase labels, penn_action_labels/: {TCC}. '
            f'Or all of it prepared, as train.pkl, val.pkl and videos/: {CARL}',
    'pouring': f'TFRecords: {TCC}. Or prepared, as train.pkl, val.pkl and videos/: {CARL}',
    'finegym99': 'Annotation and lists: sdolivia.github.io/FineGym. processed_videos/: its events, each cut '
                 'from its YouTube video, 640x360, 25 fps, named <video>_E_<start>_<end>.mp4',
    'k400': 'Kinetics-400: github.com/cvdfoundation/kinetics-dataset',
    'folder': 'Any folder of video files or of folders of images'}
SOURCES['finegym288'] = SOURCES['finegym99']


def layout(dataset, data, *layouts):
    """The first layout whose parts (glob patterns) are all there -> its number, its paths; else DataError."""
    absent = []
    for number, patterns in enumerate(layouts):
        found = [next(iter(sorted(data.glob(pattern))), None) for pattern in patterns]
        if all(found):
            return number, found
        absent.append([pattern for pattern, path in zip(patterns, found) if not path])
    begun = [gone for gone, patterns in zip(absent, layouts) if len(gone) < len(patterns)]
    raise DataError(f'{dataset}: {data} lacks {" or ".join(", ".join(gone) for gone in begun or absent)}. '
                    f'{SOURCES[dataset]}')
def say(line):
    if os.environ.get('RANK', '0') == '0':
        print(line, file=sys.stderr)
