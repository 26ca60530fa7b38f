"""Features on disk: the same as the backbone's own, made once, never those of something else."""
import math
from contextlib import suppress

import numpy as np
import pytest
import torch

import data
from datasets.pairs import VideoPairs
from evaluation.embedding import embed
from model import build_model
from running import features, record
from running.errors import UserError

SETTINGS = dict(backbone='tiny', weights='random', layers=[2, 4], image_size=24, frames=4,
                entity_width=16, fc_width=16, embedding=8)
STRENGTH = dict(crop=0.8, jitter=0.4, hue=0.)


def video(name, frames=9, seed=0, broken=None):
    """Noise; at frame `broken` it does not decode."""
    noise = torch.from_numpy(np.random.default_rng(seed).integers(
        0, 256, (frames, 3, 30, 40), dtype=np.uint8))

    def decode(indices):
        for i in indices:
            if i == broken:
                raise UserError(f'{name}: does not decode')
            yield noise[i]
    labels = np.arange(frames) * 3 // frames
    return data.Video(name, lambda: frames, decode, action='squat', annotate=lambda n: labels)


def videos():
    train = [video(f'train {i}', 9 + i, i) for i in range(4)]
    return {'train': train, 'val': [video('val 0', 40, 10), video('val 1', 7, 11)]}


def model(**changes):
    torch.manual_seed(0)
    return build_model(SETTINGS | changes)


def see(folder, network=None, halves=None, versions=3, strength=STRENGTH, **where):
    return features.see(network or model(), halves or videos(), folder, versions, strength, **where)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A folder of features, whole; tests only read it."""
    folder = tmp_path_factory.mktemp('features')
    see(folder)
    return folder


def test_no_process_begins_before_the_folder_is_locked(tmp_path, monkeypatch):
    def not_yet():
        raise RuntimeError

    monkeypatch.setattr(features, 'wait_for_all', not_yet)
    with pytest.raises(RuntimeError):
        see(tmp_path, rank=1, world=2)
    assert not content(tmp_path)


def content(folder):
    return {file.name: file.read_bytes() for file in folder.glob('*.[0-9]')}


def rows(video):
    """Of how many frames each of its files holds the features."""
    return [file.stat().st_size // (2 * math.prod(video.shape)) for file in video.files]


@pytest.mark.parametrize('changes', [
    dict(backbone='tiny'), dict(backbone='resnet50', layers=[1], pool='avg')])
def test_features_are_the_backbones(tmp_path, changes):
    """As it is and in each version, with CLS and without: to bfloat16's precision, at worst."""
    network = model(image_size=64, **changes)
    one = video('one', 5)
    expected = network.backbone(data.center(one.read(range(5)), 64))
    seen, = see(tmp_path, network, {'train': [one], 'val': []}, versions=2)['train']
    versions = [network.backbone(seen.features(k, range(5)).float()) for k in range(3)]
    assert (versions[0].patches - expected.patches).norm() < 0.03 * expected.patches.norm()
    if expected.cls is not None:
        assert (versions[0].cls - expected.cls).norm() < 0.03 * expected.cls.norm()
    assert (versions[1].patches - versions[2].patches).norm() > 0.03 * expected.patches.norm()


def test_metrics_are_those_of_pixels(tmp_path):
    """The embeddings of a whole video, from features and from pixels; also where it is thinned."""
    network = model()
    halves = videos()
    ways = [dict(limit=1000), dict(limit=11), dict(limit=11, thin=True)]
    pixels = [list(embed([network], halves['val'], **way)) for way in ways]
    seen = see(tmp_path, network, halves)
    found = [list(embed([network], seen['val'], **way)) for way in ways]
    for (one, _, (a,)), (other, _, (b,)) in zip(sum(pixels, []), sum(found, []), strict=True):
        assert a.shape == b.shape and one == other
        assert (a * b).sum(1).min() > 0.99


def test_clips_are_drawn_as_ever(made):
    """Time stamps as without features; the two views come from two versions, one draw each."""
    halves = videos()
    plain = data.Clips(halves['train'], frames=4, seed=3)
    seen = see(made, halves=halves)['train']
    clips = data.Clips(seen, frames=4, seed=3)
    pairs = set()
    for epoch in range(12):
        item = clips[epoch, 2]
        assert torch.equal(item['time'], plain[epoch, 2]['time'])
        drawn = []
        for frames, time in zip(item['clips'], item['time']):
            files = [seen[2].features(k, time.numpy()) for k in range(4)]
            drawn += [k for k in range(4) if torch.equal(frames, files[k])]
        assert len(drawn) == len(set(drawn)) == 2 and 0 not in drawn
        pairs.add(tuple(drawn))
    assert len(pairs) > 3


def test_of_a_long_video_the_versions_have_every_kth_frame(tmp_path):
    """What training draws of it is what it drew of all frames' features; evaluation sees all."""
    seen = see(tmp_path / 'some', longest=4)['train']
    whole = see(tmp_path / 'all')['train']
    items = [data.Clips(videos, frames=4, longest=4)[1, 3] for videos in (seen, whole)]
    for frames, same in zip(items[0]['clips'], items[1]['clips']):
        assert torch.allclose(frames.float(), same.float(), atol=0.02)
    assert seen[3].frames == 12 and rows(seen[3]) == [12, 4, 4, 4]


def test_where_labels_are_fewer_than_frames(tmp_path):
    """As Penn Action has it: the frames that fit the labels are those with features."""
    halves = videos()
    sparse = video('sparse', 12)
    sparse.fit, sparse.annotate = True, lambda n: np.zeros(9)
    halves['train'][0] = sparse
    seen = see(tmp_path, halves=halves)['train'][0]
    assert seen.frames == rows(seen)[0] == 9
    assert torch.equal(torch.cat(list(seen.parts())), seen.features(0, range(9)))


def test_cls_is_there_for_who_reads_it(tmp_path):
    """Features made for a pooler without CLS, of layers before the last, serve one with CLS."""
    with_cls = model(pool='cls', layers=[2])
    expected = with_cls.backbone(data.center(videos()['train'][0].read([0]), 24)).cls
    video = see(tmp_path, model(layers=[2]))['train'][0]
    see(tmp_path, with_cls)
    found = with_cls.backbone(video.features(0, [0]).float()).cls
    assert (found - expected).norm() < 0.03 * expected.norm()


def test_one_version_and_pairs_of_videos(made):
    seen = see(made, versions=1)['train']
    item = VideoPairs(seen, frames=4, seed=0)[0, 0]
    assert [frames.shape for frames in item['clips']] == [(4, 1, 17, 192)] * 2
    item = data.Clips(seen, frames=4, seed=0)[0, 0]
    assert torch.equal(item['clips'][1], seen[0].features(1, item['time'][1].numpy()))


def test_killed_at_any_moment_it_goes_on(made, tmp_path, monkeypatch):
    """Killed after each count of frames seen: what is whole stays, the rest is made, bit by bit."""
    look = features.look
    whole = content(made)
    kept = {}
    kills = 0
    while kept != whole:
        calls = iter(range(3 + kills))

        def killed(backbone, images):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return look(backbone, images)

        monkeypatch.setattr(features, 'look', killed)
        with suppress(KeyboardInterrupt):
            see(tmp_path)
        kills += 1
        before, kept = kept, content(tmp_path)
        assert before.items() <= kept.items() <= whole.items()
    assert kills > 3


def test_shares_of_processes(made, tmp_path, monkeypatch):
    """Each process makes its own; together they make all, none twice, and nothing that is there."""
    names = []

    def note(video, *options):
        names.extend(video.files[k].name for k in video.lacks)
    monkeypatch.setattr(features, 'make', note)
    for rank in (0, 1, 2):
        see(tmp_path, rank=rank, world=3)
        see(made, versions=2, rank=rank, world=3)         # of three
    assert sorted(names) == sorted(content(made))


@pytest.mark.parametrize('place, other', [
    (0, video('val 0', 40, seed=99)),                     # of the same name and length
    (1, video('val 1', 8, seed=11)),
    (1, video('val 2', 7, seed=11))])
def test_other_videos_are_refused(made, place, other):
    halves = videos()
    halves['val'][place] = other
    with pytest.raises(UserError, match='other videos.*--features'):
        see(made, halves=halves)


@pytest.mark.parametrize('changes, what', [
    (dict(layers=[4]), 'layers'), (dict(image_size=30), 'pixels'),
    (dict(backbone='tiny_local', weights=None), 'weights'), (dict(crop=0.5), 'augmentation')])
def test_other_features_are_never_taken(made, changes, what):
    strength = {name: changes.pop(name, value) for name, value in STRENGTH.items()}
    with pytest.raises(UserError, match=f'features of other .*{what}'):
        see(made, model(**changes), strength=strength)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(descriptor):
        if (tmp_path / 'lock').exists():
            raise OSError(28, 'No space left on device')
    monkeypatch.setattr(record.os, 'fsync', full)
    with pytest.raises(OSError, match='No space left on device.*goes on'):
        see(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['key.txt', 'lock']


@pytest.mark.parametrize('broken', [0, 5])
def test_a_broken_video_is_skipped(tmp_path, broken, capsys):
    """Wherever it breaks: the others are made, and it is skipped in training and evaluation. What
    is to be done is said before."""
    halves = videos()
    halves['train'][1] = video('torn', 9, broken=broken)
    network = model()
    seen = see(tmp_path, network, halves)
    frames = 4 * (9 + 9 + 11 + 12) + 47                   # three versions, and as it is
    assert f'sees {frames if broken else frames - 36} frames' in capsys.readouterr().out
    item = data.Clips(seen['train'], frames=4)[0, 1]
    assert 'torn' in item['skipped'] and item['names'] != ['torn']
    _, why, arrays = list(embed([network], seen['train']))[1]
    assert not arrays and 'torn' in why
