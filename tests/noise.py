"""Random videos and random embeddings, for tests of the evaluation."""
import numpy as np
import torch

import data
from backbones.weights import fingerprint
from evaluation.embedding import EmbeddedVideo
from running.errors import UserError

SETTINGS = dict(
    dataset='folder', data=None, data_seed=0, backbone='tiny', weights='random', layers=[2, 4],
    pool='lstp', entities=2, entity_width=8, disjoint=False, readout='cls', frames=8,
    fc_width=16, depth=3, merge=1, embedding=12, dropout=0.1, loss='scl', train_backbone=[],
    image_size=24,
    workers=0, seed=0)


def write_checkpoint(path, network, **settings):
    """What train.py writes of a model of SETTINGS."""
    path.parent.mkdir(exist_ok=True)
    settings = SETTINGS | settings
    torch.save(dict(settings=settings, model=network.trained_state(),
                    backbone=fingerprint(network.backbone, settings['train_backbone'])), path)
    return path


class Film(data.Video):
    """A video of noise, with a square actor."""

    def __init__(self, name, frames, labels=None, broken=False, size=24):
        annotate = None if labels is None else lambda _: labels
        super().__init__(name, lambda: frames, self.noise, annotate=annotate, mask=self.square)
        self.broken = broken
        self.size = size

    def noise(self, indices):
        if self.broken:
            raise UserError(f'{self.name}: does not decode')
        for i in indices:
            rng = np.random.default_rng([len(self.name), i])
            yield torch.from_numpy(rng.integers(0, 256, (3, self.size, self.size), np.uint8))

    def square(self, indices):
        mask = torch.zeros(len(indices), self.size, self.size, dtype=torch.bool)
        mask[:, :9, :6] = True
        return mask


def phases(n, classes=3):
    return np.arange(n) * classes // n


def films():
    """A data set: one video is longer than a part, with labels from its frame 5 on; one is broken,
    two have one name."""
    partly = phases(70)
    partly[:5] = -1
    train = [Film('a', 70, partly), Film('b/c: d', 9, phases(9)), Film('e', 8, broken=True),
             Film('f', 8, phases(8))]
    val = [Film('g', 10, phases(10)), Film('h', 12, phases(12)), Film('h', 9, phases(9))]
    return {'train': train, 'val': val}


def random_videos(count, seed=0, width=6, classes=3, shortest=3, longest=20):
    """Unit embeddings of random lengths -> [(n, D)], [labels (n,)]; some frames have no label."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest, count)
    embeddings = [rng.normal(size=(n, width)).astype(np.float32) for n in lengths]
    embeddings = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in embeddings]
    labels = [phases(n, classes) for n in lengths]
    for one in labels:
        one[rng.random(len(one)) < 0.15] = -1
    return embeddings, labels


def embedded_of(labels, action=None):
    """[EmbeddedVideo] of videos with these labels, each (n,)."""
    found = []
    for i, y in enumerate(labels):
        film = Film(f'{action}{i}', len(y), y)
        film.action = action
        kept = np.flatnonzero(y >= 0) if (y >= 0).any() else np.arange(len(y))
        found.append(EmbeddedVideo(film, len(y), kept, y[kept]))
    return found


def with_ones(x):
    """Inputs with the intercept's column."""
    return np.c_[x, np.ones(len(x))].astype(float)
