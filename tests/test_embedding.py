"""Every frame of whole videos embedded: in order, once, by one process or several."""
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import data
import evaluate
import model as models
from evaluation import embedding, table
from made import table_of
from miniatures import picture, write_images
from noise import SETTINGS, Film, films
from running.errors import UserError

torch.set_num_threads(1)                                  # the frames are tiny


def alone(network, film):
    """Embeddings of a whole video in one clip."""
    with torch.no_grad():
        images = data.center(film.read(range(film.frames)), 24)
        return network(images[None])[0].numpy()


@pytest.mark.parametrize('workers', [0, 2])
def test_every_frame_is_embedded_in_order(network, workers):
    train = films()['train']
    embedded, embeddings, skipped = embedding.embed_splits(
        {'one': network}, {'train': train}, SETTINGS | dict(workers=workers), thin=False)
    embedded, embeddings = embedded['train'], embeddings['one']['train']
    assert [one.video.name for one in embedded] == ['a', 'b/c: d', 'f']
    assert skipped == ['e: does not decode']
    for one, array in zip(embedded, embeddings):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, alone(network, one.video)[one.kept], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-6)
    assert embedded[0].kept.tolist() == list(range(5, 70))    # the labelled frames
    assert (embedded[0].labels >= 0).all()


def test_a_long_video_is_cut_into_equal_sequences(network, monkeypatch):
    lengths = []

    def mtf(entities):
        lengths.append(entities.shape[1])
        return torch.ones(1, entities.shape[1], 12)

    monkeypatch.setattr(network.mtf, 'forward', mtf)
    entities = torch.zeros(25, 2, 8)
    for limit in (25, 24, 10):
        assert embedding.embed_entities(network, entities, 25, limit).shape == (25, 12)
    assert lengths == [25, 13, 12, 9, 8, 8]    # one; ceil(25/24) = 2; ceil(25/10) = 3


def test_no_frame_passes_a_shared_backbone_twice(network, monkeypatch):
    passed = []
    forward = models.ViT.forward

    def counting(self, images):
        assert not torch.backends.cudnn.allow_tf32 and not self.training
        passed.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(models.ViT, 'forward', counting)
    frames = 70 + 9 + 8 + 10 + 12 + 9
    torch.manual_seed(1)
    second = models.build_model(SETTINGS, network.backbone)
    state = torch.get_rng_state()
    network.train()
    result = evaluate.assess({'one': network, 'two': second}, films(), SETTINGS)
    assert set(result['rows']) == {'one', 'two', *table.CONTROLS}
    assert sum(passed) == frames
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.cudnn.allow_tf32                # all as before
    assert network.mtf.training and not second.training
    network.eval()

    passed.clear()
    other = models.build_model(SETTINGS)    # one that was fine-tuned, say, needs a pass of its own
    evaluate.assess({'one': network, 'two': other}, films(), SETTINGS)
    assert sum(passed) == 2 * frames


def test_controls_are_on_the_models_own_backbone(network):
    """Untrained is always the same draw. SETTINGS' backbone has two layers chosen: the frozen mean
    is over the patches of the last alone."""
    one = evaluate.untrained(SETTINGS, network)
    two = evaluate.untrained(SETTINGS | {'train_backbone': ['norm']}, network)
    assert one.backbone is two.backbone is network.backbone
    assert all(map(torch.equal, one.mtf.parameters(), two.mtf.parameters()))
    videos = {'train': [], 'val': [Film('g', 6), Film('h', 5)]}
    found = evaluate.assess({'one': network}, videos, SETTINGS)['embeddings']
    only_last = models.build_model(SETTINGS | {'layers': [4]})
    for i, video in enumerate(videos['val']):
        with torch.no_grad():
            images = data.center(video.read(range(video.frames)), 24)
            patches, cls = only_last.backbone(images)
        for name, own in {'frozen (mean of patches)': patches.mean(1), 'frozen (CLS)': cls}.items():
            own = torch.nn.functional.normalize(own, dim=-1)
            np.testing.assert_allclose(found[name]['val'][i], own, atol=1e-5)


class Deadly(Film):
    """Its decoding ends the process, as want of memory does."""
    def parts(self, size=64, step=1):
        os.kill(os.getpid(), signal.SIGKILL)
        yield


def test_a_worker_that_dies_is_one_line(network):
    videos = {'train': [], 'val': [Film('a', 5), Deadly('b', 5)]}
    with pytest.raises(UserError, match='a process that decodes videos died'):
        evaluate.assess({'one': network}, videos, SETTINGS | dict(workers=1))


def test_saved_rows_and_the_index_that_says_what_they_are(network, tmp_path):
    videos = {'train': [Film('a', 4, [0, -1, 1, 1])], 'val': [Film('a b', 2), Film('../a/b', 1)]}
    videos['val'][0].seconds = lambda: np.arange(2) / 8
    (tmp_path / 'deep').mkdir()
    evaluate.assess({'one': network}, videos, SETTINGS, folder=tmp_path / 'deep')
    rows = [tuple(row.values()) for row in table_of(tmp_path / 'deep' / 'index.csv')]
    assert rows == [
        ('train/a.npy', '0', '', '0'), ('train/a.npy', '1', '', ''),
        ('train/a.npy', '2', '', '1'), ('train/a.npy', '3', '', '1'),
        ('val/a_b.npy', '0', '0.000', ''), ('val/a_b.npy', '1', '0.125', ''),
        ('val/_a_b.npy', '0', '', '')]
    for file, count in (('train/a.npy', 4), ('val/a_b.npy', 2), ('val/_a_b.npy', 1)):
        array = np.load(tmp_path / 'deep' / file)
        assert array.shape == (count, 12) and array.dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ['deep']    # nothing climbed out


def test_files_that_could_not_be_written_are_not_in_the_index(network, tmp_path, monkeypatch):
    save = np.save

    def no_room(file, array):
        save(file, array)
        if 'h.npy' in file.name:
            raise OSError('no space left')

    monkeypatch.setattr(np, 'save', no_room)
    evaluate.assess({'one': network}, films(), SETTINGS, folder=tmp_path)
    named = {row['file'] for row in table_of(tmp_path / 'index.csv')}
    assert 'val/g.npy' in named and 'val/h.npy' not in named
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*.npy')} == named
    assert all(len(np.load(tmp_path / file)) for file in named)


def test_two_broken_videos_of_one_name_are_two(network):
    broken = {split: [Film('a', 6, broken=True), Film('b', 6)] for split in ('train', 'val')}
    *_, skipped = embedding.embed_splits({'one': network}, broken, SETTINGS, thin=False)
    assert skipped == 2 * ['a: does not decode']


def test_a_path_is_the_video_that_a_set_has_of_it(network, tmp_path):
    """A stack of pictures; a folder of frames with a cover; a folder of plain names."""
    pages = [Image.fromarray(picture(i)) for i in range(5)]
    pages[0].save(tmp_path / 'stack.tif', save_all=True, append_images=pages[1:])
    write_images(tmp_path / 'frames', 6)
    pages[0].save(tmp_path / 'frames' / 'cover.jpg')
    for video in data.load('folder', tmp_path, image_size=24)['train']:
        z = network.embed(tmp_path / video.name)
        assert len(z) == video.frames == dict(frames=6).get(video.name, 5)


def test_convolutions_are_cudnns_in_full_float32(network):
    with embedding.evaluating([network]):
        assert torch.backends.cudnn.enabled and not torch.backends.cudnn.allow_tf32


def test_no_two_files_have_one_name():
    names = embedding.file_names([Film('a b', 1), Film('a/b', 1), Film('x' * 300, 1)])
    assert names == ['a_b', 'a_b~1', 'x' * 60]


def test_a_thinned_video_is_one_sequence_interpolated(network):
    """Of 25 frames and a limit of 10 every third is embedded: between two of them lies the
    straight line, after the last one nothing more."""
    video = Film('long', 25)
    with torch.no_grad():
        chosen = network.entities(data.center(video.read(range(0, 25, 3)), 24))[0]
        coarse = network.mtf(chosen[None])[0].numpy()             # (9, D)
        (_, _, (found,)), = embedding.embed([network], [video], limit=10, thin=True)
    columns = [np.interp(np.arange(25), np.arange(0, 25, 3), column) for column in coarse.T]
    expected = torch.nn.functional.normalize(torch.tensor(np.stack(columns, 1)), dim=-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
