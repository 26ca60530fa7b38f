"""Films, and two videos aligned: against oracles and what FFmpeg reads back."""
import av
import numpy as np
import pytest

from made import STEP, arc, grey, on_circle, table_of
from pictures import align, film
from running.errors import UserError


def film_frames(path):
    """The frames of a film, uint8 (H, W, 3), as PyAV reads them back."""
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format='rgb24') for frame in file.decode(video=0)]


# ------------------------------------------------------------------------------------------------
# Two videos aligned

def cheapest(cost, i, j):
    """The cost of the cheapest path from (0, 0) to (i, j), by trying all of them."""
    if i < 0 or j < 0:
        return np.inf
    if i == j == 0:
        return cost[0, 0]
    before = [cheapest(cost, i - 1, j), cheapest(cost, i, j - 1), cheapest(cost, i - 1, j - 1)]
    return cost[i, j] + min(before)


@pytest.mark.parametrize('n, m', [(1, 1), (1, 5), (5, 1), (5, 4)])
def test_dtw_is_the_cheapest_of_all_paths(n, m):
    cost = np.random.default_rng(n * 10 + m).random((n, m))
    path = align.dtw(cost)
    assert path[[0, -1]].tolist() == [[0, 0], [n - 1, m - 1]]
    steps = set(map(tuple, np.diff(path, axis=0).tolist()))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert cost[tuple(path.T)].sum() == pytest.approx(cheapest(cost, n - 1, m - 1), abs=1e-12)


def test_a_known_change_of_speed_is_found():
    """B runs along A's arc, slow at first: where A is at i, B is at sqrt(i)."""
    slow_at_first = on_circle(np.linspace(0, 1, 90) ** 2)
    expected = 89 * np.sqrt(np.linspace(0, 1, 60))
    found = align.match(arc(60), slow_at_first)
    assert np.abs(found - expected).max() <= 4
    assert np.abs(align.by_clock(60, 90) - expected).max() > 15


def test_long_videos_are_matched_at_every_second_frame(monkeypatch):
    whole = align.match(arc(100), arc(300))
    monkeypatch.setattr(align, 'CELLS', 100 * 300 // 4)
    found = align.match(arc(100), arc(300))
    assert found.shape == (100,)
    assert (found[::2] % 2 == 0).all()
    assert np.abs(found - whole).max() <= 6


def test_the_film_shows_the_frames_of_the_table(tmp_path):
    videos = [grey('a', 15, rate=10), grey('b', 20, size=(80, 48), rate=20)]
    embeddings = [arc(15), on_circle(np.linspace(0, 1, 20) ** 2)]
    notes = align.align(videos, embeddings, tmp_path / 'out.mp4')
    assert len(notes) == 1

    rows = table_of(tmp_path / 'out.csv')
    assert [int(row['frame_a']) for row in rows] == list(range(15))
    assert len({row['frame_b'] for row in rows}) > 5
    shown = film_frames(tmp_path / 'out.mp4')
    assert len(shown) == 15
    boxes, _, _ = film.arrange([(48, 64), (80, 48)], columns=3, side=320)
    for row, frame in zip(rows, shown):
        a = int(row['frame_a'])
        b = int(row['frame_b'])
        for (left, top, width, height), number in zip(boxes, (a, b)):
            pixel = frame[top + height // 2, left + width // 2]
            assert abs(pixel.mean() - STEP * number) < STEP / 2
        assert float(row['seconds_a']) == pytest.approx(a / 10)
        assert float(row['seconds_b']) == pytest.approx(b / 20)
        similarity = embeddings[0][a] @ embeddings[1][b]
        assert float(row['similarity']) == pytest.approx(similarity, abs=1e-4)
    with av.open(str(tmp_path / 'out.mp4')) as file:
        assert file.streams.video[0].average_rate == 10   # that of the first video
        assert file.streams.video[0].codec_context.pix_fmt == 'yuv420p'    # which all players show


def test_the_sentence_says_how_far_a_match_is_from_the_clock():
    backwards = np.arange(20)[::-1]
    reverse = align.compare(arc(20), arc(20), backwards, np.arange(20) / 10)
    assert 'pure time stretching' in reverse and 'hardly' not in reverse
    assert '10.0 frames' in reverse and 'at most 1.90 s' in reverse


def test_the_film_says_when_a_match_is_the_clock(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(align, 'play', lambda path, names, *_, **more: shown.extend(names))
    bent = on_circle(np.linspace(0, 1, 40) ** 3)
    videos = [grey('a', 30), grey('b', 40), grey('c', 40)]
    notes = align.align(videos, [arc(30), arc(40), bent], tmp_path / 'out.mp4')
    assert 'says hardly more than the clock' in notes[3]     # the first three: no times
    assert shown == ['a', 'b: hardly more than the clock', 'c']


def test_frames_of_a_film_come_as_often_as_asked_for():
    indices = [0, 0, 2, 3, 3, 9]
    frames = align.read_at(grey('a', 10), np.array(indices))
    assert [frame[0, 0, 0] // STEP for frame in frames] == indices


# ------------------------------------------------------------------------------------------------
# Films

@pytest.mark.parametrize('name', ['$a_b^{', 'x' * 300, '\u89c6\u9891 \U0001f938'])
def test_names_are_shown_as_they_are(tmp_path, recwarn, name):
    frames = plain_frames(2, (48, 64), 9)
    film.play(tmp_path / 'film.mp4', [name, name], [frames, frames], 10, columns=2, title=name,
              at=[np.arange(2), np.arange(2)], unit='seconds')
    assert len(film_frames(tmp_path / 'film.mp4')) == 2
    assert not recwarn.list


def test_frames_of_another_size_are_brought_to_the_first(tmp_path):
    frames = plain_frames(2, (48, 64), 90) + [np.full((30, 90, 3), 90, np.uint8)]
    film.play(tmp_path / 'film.mp4', ['a'], [frames], 10, columns=1, title='')
    _, second, third = film_frames(tmp_path / 'film.mp4')
    assert np.abs(second.astype(int) - third).mean() < 1


def test_upright_panels_are_as_large_as_wide_ones():
    (wide, upright), _, _ = film.arrange([(576, 1024), (1920, 1080)], columns=2, side=320)
    assert wide[2:] == (427, 240)
    assert upright[2:] == (240, 427)


def plain_frames(n, size, step):
    return [np.full((*size, 3), step * i, np.uint8) for i in range(n)]


def test_a_film_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise UserError('b.mp4: does not decode')

    with pytest.raises(UserError, match='b.mp4'):
        film.write_film(tmp_path / 'film.mp4', broken(), 10)
    assert list(tmp_path.iterdir()) == []


def test_without_h264_a_film_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, 'codecs_available', {'mpeg4'})
    film.write_film(tmp_path / 'film.mp4', plain_frames(3, (16, 16), 9), 10)
    with av.open(str(tmp_path / 'film.mp4')) as file:
        assert file.streams.video[0].codec_context.name == 'mpeg4'
