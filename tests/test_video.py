"""Decoding: frame i is the i-th that was written, however it is asked for; broken files say so."""
import itertools
from pathlib import Path

import av
import numpy as np
import pytest

import data
from datasets import images as image_files
from datasets import video as video_files
from miniatures import numbers, write_images, write_video
from running.errors import UserError

FORMATS = {
    'b-frames.mp4': {},
    'short.mp4': {'options': {'bf': '3', 'g': '3'}},
    'open.mp4': {'options': {'bf': '3', 'g': '12', 'x264-params': 'open-gop=1'}},
    'all-key.mov': {'codec': 'mjpeg', 'options': {}},
    'one.mkv': {},
    'old.avi': {'codec': 'mpeg4'},
    'some.gif': {'codec': 'gif', 'options': {}},
}


def video_file(path, **known):
    return data.video_file(Path(path).name, path, **known)


@pytest.mark.parametrize('name', FORMATS)
def test_frame_i_is_frame_i(name, tmp_path):
    write_video(tmp_path / name, 130, **FORMATS[name])
    video = video_file(tmp_path / name)
    assert video.frames == 130
    assert numbers(itertools.chain.from_iterable(video.parts(50))) == list(range(130))
    assert [len(part) for part in video.parts(50)] == [50, 50, 30]
    for indices in ([129], [0], [64, 65, 66], [5, 100, 7, 5], [0, 60, 129]):
        assert numbers(video.read(indices)) == indices
    with pytest.raises(IndexError):
        video.read([130])


def test_seeking_decodes_little(tmp_path, monkeypatch):
    options = {'bf': '2', 'g': '20', 'sc_threshold': '0'}
    write_video(tmp_path / 'long.mp4', 400, options=options)
    decoded = []
    original = video_files.frames_of

    def counted(file, stream):
        for frame in original(file, stream):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_files, 'frames_of', counted)
    assert numbers(video_file(tmp_path / 'long.mp4').read([395, 17, 17])) == [395, 17, 17]
    assert len(decoded) < 60
    decoded.clear()
    assert numbers(video_file(tmp_path / 'long.mp4').read(range(400))) == list(range(400))
    assert len(decoded) == 400


@pytest.mark.parametrize('keep', [0.5, 0.8])
def test_cut_off_mp4_ends_where_its_frames_end(keep, tmp_path):
    path = tmp_path / 'a.mp4'
    write_video(path, 100, form={'movflags': 'faststart'})
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * keep)])
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 100    # what the header claims
    video = video_file(path)
    assert 20 < video.frames < 100
    assert numbers(video.read(range(video.frames)))[:20] == list(range(20))
    labelled = video_file(path, annotate=lambda n: np.zeros(100))
    with pytest.raises(UserError, match='a.mp4: 100 labels for'):
        labelled.labels


def broken_files(folder):
    """Write video files that cannot be used -> their names, and that of one that is not there."""
    write_video(folder / 'whole.mp4', 30)
    whole = (folder / 'whole.mp4').read_bytes()
    quarter = len(whole) // 4
    contents = {
        'no index.mp4': whole[:2 * quarter],
        'empty.mp4': b'',
        'text.mp4': b'Sign in to confirm your age\n',
        'noise.avi': np.random.default_rng(0).bytes(5000),
        'empty.gif': b'',
        'damaged.mp4': whole[:quarter] + bytes(quarter) + whole[2 * quarter:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / 'folder.mp4').mkdir()
    return [*contents, 'folder.mp4', 'gone.mp4']


def test_broken_videos_are_errors_of_one_line(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(UserError) as error:
            video = video_file(tmp_path / name)
            video.read(range(video.frames))
        assert name in str(error.value)
        assert '\n' not in str(error.value)


def test_images(tmp_path):
    folder = tmp_path / 'v'
    write_images(folder, 12)
    for i in range(1, 13):    # frame10 after frame9
        (folder / f'{i:06d}.jpg').rename(folder / f'frame{i}.jpg')
    assert numbers(image_files.read_folder(folder, range(12))) == list(range(12))
    cut_off = (folder / 'frame3.jpg').read_bytes()[:700]
    (folder / 'frame3.jpg').write_bytes(cut_off)
    assert numbers(image_files.read_folder(folder, [0, 1, 3])) == [0, 1, 3]
    with pytest.raises(UserError, match='frame3.jpg'):
        list(image_files.read_folder(folder, range(12)))
    (folder / 'frame7.jpg').write_bytes(b'')
    with pytest.raises(UserError, match='frame7.jpg'):
        list(image_files.read_folder(folder, [6]))
