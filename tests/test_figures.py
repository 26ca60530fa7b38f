"""Pictures: attention on one scale, captions that name failures, the drawings of the lesson."""
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
from pictures import figures
import loss
import model as models
from made import arc, embedded, grey
import lesson
from pictures import canvas, training

SMALL = dict(backbone='tiny', layers=[1, 2, 4], entity_width=16, frames=8, fc_width=16,
             embedding=8)
PICTURE = (60, 60)    # what the tiny backbone sees


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return models.build_model(SMALL)


@pytest.fixture
def saved(monkeypatch):
    """What is saved, as a list of (figure, caption)."""
    found = []

    def keep(fig, path, caption=''):
        found.append((fig, caption))

    monkeypatch.setattr(figures, 'save', keep)
    monkeypatch.setattr(training, 'save', keep)
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


def test_the_scale_is_in_multiples_of_uniform_attention():
    images = torch.randn(1, 3, 24, 24)
    coarse = canvas.tinted(images, torch.full((1, 4), 3 / 4))
    fine = canvas.tinted(images, torch.full((1, 144), 3 / 144))
    np.testing.assert_array_equal(coarse, fine)
    strongest = canvas.tinted(images, torch.full((1, 4), canvas.STRONGEST / 4))
    beyond = canvas.tinted(images, torch.full((1, 4), 1000.0))
    np.testing.assert_array_equal(strongest, beyond)


def test_share_on_the_actor():
    attention = torch.rand(3, 2, 9)
    actor = (torch.rand(3, 9) > 0.5).float()
    expected = np.zeros(2)
    for f in range(3):
        for n in range(2):
            on = sum(attention[f, n, p].item() for p in range(9) if actor[f, p])
            expected[n] += on / attention[f, n].sum().item() / 3
    np.testing.assert_allclose(figures.on_actor(attention, actor), expected, rtol=1e-5)


def test_what_the_model_looks_at(network):
    video = data.load('synthetic')['val'][0]
    look = figures.look_at(network, video, [0, 5])
    assert look.images.shape == (2, 3, *PICTURE)
    assert look.entities.shape == (2, 3, 100)
    assert look.heads.shape == (2, 3, 100)
    torch.testing.assert_close(look.entities.sum(-1), torch.ones(2, 3))
    assert (look.heads.sum(-1) < 1).all()                 # the rest is on the CLS token itself
    seen = video.actor([0, 5])[:, 2:62, 2:62]             # the middle 60 of 64 pixels
    area = seen.float().mean((1, 2))
    torch.testing.assert_close(look.actor.mean(-1), area, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------
# Captions name the failures

def test_matches_that_run_backwards_are_counted(saved, network):
    videos = [embedded(grey(f'squat/{i}', 12, PICTURE, 'squat')) for i in range(3)]
    figures.draw_alignment(network, videos, [arc(12), arc(12), arc(12)[::-1]], 'a.png')
    _, caption = saved[0]
    assert 'A: 0 of 12 matches step back, tau 1.00' in caption
    assert 'B: 11 of 12 matches step back, tau -1.00' in caption


def test_neighbours_of_another_phase_are_named(saved, network):
    labels = np.repeat([0, 1], 6)
    videos = [embedded(grey(f'squat/{i}', 12, PICTURE, 'squat'), labels) for i in range(2)]
    right = np.eye(2)[labels]
    figures.draw_retrieval(network, videos, [right, right], 'r.png', queries=2, k=3)
    figures.draw_retrieval(network, videos, [right, right[::-1]], 'r.png', queries=2, k=3)
    assert '0 of 6 show another phase.' in saved[0][1]
    assert '6 of 6 show another phase' in saved[1][1]
    assert 'squat 0 taken for 1 (3)' in saved[1][1]
    assert 'squat 1 taken for 0 (3)' in saved[1][1]


def prediction(true, predicted):
    curve = np.linspace(-1, 0, len(true))
    one = embedded(grey('v', len(true)), true)
    return dict(video=one, predicted=np.array(predicted), progress={0: (curve, curve + 0.1)})


def test_wrong_phases_are_named(saved):
    wrong = prediction([0, 0, 1, 1, -1], [0, 1, 1, 1, 0])
    right = prediction([0, 1], [0, 1])
    figures.draw_phases([wrong, right], 'p.png')
    fig, caption = saved[0]
    assert 'phase 0 is taken for 1 in 1 frames' in caption
    assert 'every frame is right' in caption
    left, right = fig.axes[:2]
    assert '75% right' in left.get_title()
    assert '100% right' in right.get_title()


def test_what_cannot_be_drawn_is_said(saved, network, tmp_path):
    alone = [embedded(grey('squat/0', 12, PICTURE, 'squat'))]
    assert 'no action has two' in figures.draw_alignment(network, alone, [arc(12)], 'a.png')
    assert 'no action has two' in figures.draw_alignment_film(alone, [arc(12)], 'a.mp4')
    assert 'two labelled' in figures.draw_retrieval(network, 2 * alone, 2 * [arc(12)], 'r.png')
    assert 'no phases.png' in figures.draw_phases([], 'p.png')
    assert 'no log' in figures.draw_training(tmp_path / 'nowhere', 't.png')
    assert saved == []


@pytest.mark.parametrize('evaluations, panels', [(0, 2), (1, 2), (2, 3)])
def test_metrics_are_shown_if_there_are_several(saved, tmp_path, evaluations, panels):
    lines = [dict(step=step, loss=1.5, lr=0.1) for step in (1, 2)]
    for epoch in range(evaluations):
        lines.append(dict(step=2, epoch=epoch, tau=0.9, ap5=0.5))
    log = tmp_path / 'log.jsonl'
    log.write_text('\n'.join(map(json.dumps, lines)))
    assert figures.draw_training(log, 't.png') is None
    fig, _ = saved[0]
    assert len(fig.axes) == panels


# ------------------------------------------------------------------------------------------------
# All of them

DRAWINGS = ('draw_entities', 'draw_alignment', 'draw_retrieval', 'draw_phases', 'draw_training',
            'film_entities', 'draw_alignment_film')


@pytest.fixture
def result():
    """Of evaluate.assess: two val videos of two actions, at random places among the embeddings."""
    rng = np.random.default_rng(0)
    videos = data.load('synthetic')['val']
    chosen = [embedded(video, video.labels) for video in videos[:2] + videos[-2:]]
    embeddings = []
    for one in chosen:
        z = rng.normal(size=(one.frames, 8))
        embeddings.append(z / np.linalg.norm(z, axis=1, keepdims=True))
    return dict(embedded={'val': chosen}, embeddings={'a': {'val': embeddings}},
                predictions=[prediction([0, 1], [0, 1])])


def test_draw_all_makes_every_picture(network, result, tmp_path):
    log = tmp_path / 'log.jsonl'
    log.write_text('{"step": 1, "loss": 1.5, "lr": 0.1}')
    assert figures.draw_all(network, result, 'a', tmp_path, log) == []
    made = {path.name for path in tmp_path.iterdir()} - {'log.jsonl'}
    assert made == {'entities.png', 'alignment.png', 'retrieval.png', 'phases.png', 'training.png',
                    'entities.mp4', 'alignment.mp4'}


def test_a_picture_that_fails_is_a_note(network, result, tmp_path, monkeypatch):
    def fails(*arguments, **more):
        raise ValueError('two\nlines')

    for name in DRAWINGS:
        monkeypatch.setattr(figures, name, fails)
    notes = figures.draw_all(network, result, 'a', tmp_path, 'nowhere')
    assert len(notes) == len(DRAWINGS)
    assert notes[0] == 'no entities.png: ValueError: two lines'


def test_the_backend_of_a_notebook_does_not_matter(tmp_path):
    code = f'''
import os
from pictures.canvas import figure, save
fig = figure(2, 2)
fig.subplots()
save(fig, {str(tmp_path / "x.png")!r}, "caption")
print(os.environ["MPLBACKEND"])'''
    backend = 'module://no_such_package.backend_inline'
    done = subprocess.run([sys.executable, '-c', code], env=os.environ | {'MPLBACKEND': backend},
                          cwd=Path(data.__file__).parent, capture_output=True, text=True)
    assert done.stdout.strip() == backend, done.stderr
    assert Image.open(tmp_path / 'x.png').size == (320, 320)


# ------------------------------------------------------------------------------------------------
# The drawings of the lesson

def test_what_is_drawn_of_scl_is_the_loss():
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(2, 12, 8), dim=-1)
    time = torch.randint(0, 30, (2, 12)).sort().values
    valid = torch.arange(12) < torch.tensor([[9], [10]])
    length = torch.tensor([30, 30])
    total = 0
    for order in ([0, 1], [1, 0]):
        G = lesson.target(time[order], length[order], valid[order])
        p = lesson.prediction(z[order], valid[order])
        own = lesson.divergence(G, p, valid[order])
        total += own * valid[order[0]].sum().item()
    expected = loss.scl(z[None], time[None], length[None], valid[None]).item()
    assert total / 19 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('changes', [
    {}, {'readout': 'avg'}, {'pool': 'fwb', 'backbone': 'tiny', 'layers': [4]}])
def test_the_architecture_is_drawn_with_all_of_its_parameters(tmp_path, changes):
    settings = asdict(models.Architecture(**changes).resolve())
    rows = models.architecture(settings)
    drawn = sum(stage.parameters for stage in lesson.stages(rows, settings))
    assert drawn == sum(row[3] for row in rows)
    lesson.draw_architecture(rows, settings, tmp_path / 'a.png')
    assert Image.open(tmp_path / 'a.png').width == canvas.WIDTH * canvas.DPI


def test_numbers_of_parameters_are_short():
    assert lesson.millions(85_798_656) == '85.8 M'
    assert lesson.millions(594_688) == '595 k'


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, monkeypatch, capsys):
    arguments = ['lesson', str(tmp_path), '--checkpoint', str(tmp_path / 'nowhere.pt')]
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit) as stopped:
        lesson.main()
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / 'architecture.png').exists()
