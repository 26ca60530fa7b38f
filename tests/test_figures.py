"""Pictures: attention on one scale, captions that name failures, the drawings of the lesson."""
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

import data
import lesson
import model as models
from made import arc, embedded, grey
from pictures import canvas, figures

SMALL = dict(backbone='tiny', layers=[1, 2, 4], entity_width=16, frames=8, fc_width=16,
             embedding=8)
PICTURE = (60, 60)    # what the tiny backbone sees


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return models.build_model(SMALL)


@pytest.fixture
def saved(monkeypatch):
    """What is saved, as a list of (figure, path, caption)."""
    found = []
    monkeypatch.setattr(figures, 'save', lambda *what: found.append(what))
    return found


# ------------------------------------------------------------------------------------------------
# Attention on one scale

@pytest.mark.parametrize('side', [2, 12])
def test_uniform_attention_is_grey_whatever_the_number_of_patches(side):
    images = torch.randn(2, 3, 24, 24)
    uniform = torch.full((2, side ** 2), 1 / side ** 2)
    grey_frames = canvas.tinted(images, uniform).astype(int)
    assert np.ptp(grey_frames, axis=-1).max() == 0        # red = green = blue
    more = canvas.tinted(images, 4 * uniform).astype(int)
    assert (more[..., 0] > more[..., 2]).all()            # orange
    less = canvas.tinted(images, uniform / 4).astype(int)
    assert (less[..., 0] < less[..., 2]).all()            # blue
    strongest = canvas.tinted(images, canvas.STRONGEST * uniform)
    beyond = canvas.tinted(images, 1000 * uniform)
    np.testing.assert_array_equal(strongest, beyond)


def test_share_on_the_actor():
    """Of two entities in two frames of two patches."""
    attention = torch.tensor([[[1., 3.], [2., 0.]], [[1., 1.], [0., 5.]]])
    actor = torch.tensor([[0., 1.], [1., 0.]])
    np.testing.assert_allclose(figures.on_actor(attention, actor), [(3 / 4 + 1 / 2) / 2, 0])


# ------------------------------------------------------------------------------------------------
# Captions name the failures

@pytest.mark.parametrize('second, says', [(arc(12), ['tau 1.00', '0 of 12']),
                                          (arc(12)[::-1], ['tau -1.00', '12 of 12'])])
def test_matches_of_another_phase_are_counted(saved, network, second, says):
    labels = np.repeat([0, 1], 6)
    videos = [embedded(grey(f'squat/{i}', 12, PICTURE, 'squat'), labels) for i in range(2)]
    figures.draw_alignment(network, videos, [arc(12), second], 'a.png')
    _, _, caption = saved[0]
    assert all(words in caption for words in says)


def test_without_labels_no_match_is_called_right(saved, network):
    """The pair most in order is shown: 0 and 2, not 0 and 1."""
    videos = [embedded(grey(f'squat/{i}', 12, PICTURE, 'squat'), np.full(12, -1)) for i in range(3)]
    figures.draw_alignment(network, videos, [arc(12), arc(12)[::-1], arc(12)], 'a.png')
    _, _, caption = saved[0]
    assert 'tau 1.00' in caption and 'no labels' in caption and 'Red' not in caption


def test_the_clock_beside_the_most_similar_frames(saved, network):
    """Two videos of the same two phases, whose change comes early in one, late in the other."""
    early = np.repeat([0, 1], [3, 9])
    late = np.repeat([0, 1], [9, 3])
    videos = [embedded(grey('squat/0', 12, PICTURE, 'squat'), early),
              embedded(grey('squat/1', 12, PICTURE, 'squat'), late)]
    figures.draw_clock(network, videos, [np.eye(2)[early], np.eye(2)[late]], 'c.png')
    fig, _, caption = saved[0]
    rows = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert rows == ['query', 'by the clock:\n50% right', 'most similar:\n100% right']
    assert 'in all 2 pairs of videos' in caption
    assert '50% of the frames are right by the clock, 100% by similarity' in caption


def test_features_that_are_alike_have_like_colours(network):
    """Left halves of one grey, right halves of another: two colours, whatever they are."""
    def decode(indices):
        for i in indices:
            frame = torch.zeros(3, 60, 60, dtype=torch.uint8)
            frame[:, :, 30:] = 200 + int(i) % 2
            yield frame

    video = data.Video('halves', lambda: 4, decode)
    look = figures.look_at(network, video, [0, 2])
    colours = figures.feature_colours(network, look.images).astype(int)
    assert colours.shape == (2, *PICTURE, 3)
    np.testing.assert_array_equal(colours[0], colours[1])     # the same frame, the same colours
    apart = abs(colours[0, 30, 10] - colours[0, 30, 50]).max()
    assert apart > 100


# ------------------------------------------------------------------------------------------------
# All of them

@pytest.fixture
def result(monkeypatch):
    """Of evaluate.assess: two val videos of an action."""
    monkeypatch.setattr(canvas, 'DPI', 40)
    labels = np.repeat([0, 1], 4)
    chosen = [embedded(grey(f'squat/{i}', 8, PICTURE, 'squat'), labels) for i in range(2)]
    return dict(embedded={'val': chosen}, embeddings={'a': {'val': [arc(8), arc(8)[::-1]]}})


def test_draw_all_makes_every_picture(network, result, tmp_path, capsys):
    log = tmp_path / 'log.jsonl'
    log.write_text('{"step": 1, "loss": 1.5, "lr": 0.1}')
    figures.draw_all(network, result, 'a', tmp_path, log)
    assert capsys.readouterr().out == ''
    made = {path.name for path in tmp_path.iterdir()} - {'log.jsonl'}
    assert made == {'entities.png', 'alignment.png', 'clock.png', 'training.png',
                    'entities.mp4', 'alignment.mp4'}


def test_pictures_that_fail_are_notes(network, result, tmp_path, capsys):
    """Without a log, and of one video alone."""
    del result['embedded']['val'][1]
    figures.draw_all(network, result, 'a', tmp_path, tmp_path / 'nowhere')
    notes = capsys.readouterr().out.splitlines()
    for note, words in zip(notes, [
            'no alignment.png: no action has two val', 'no clock.png', 'no training.png',
            'no alignment.mp4'], strict=True):
        assert words in note
    assert {path.name for path in tmp_path.iterdir()} == {'entities.png', 'entities.mp4'}


# ------------------------------------------------------------------------------------------------
# The drawings of the lesson

def test_the_architecture_is_drawn_from_a_video(tmp_path, network):
    settings = asdict(models.Architecture(**SMALL).resolve())
    lesson.draw_architecture(network, grey('a', 8, PICTURE), settings, tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as image:
        assert image.width == canvas.WIDTH * canvas.DPI
