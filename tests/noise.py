"""Random videos and random embeddings, for tests of the evaluation."""
import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.functional import hessian, jacobian

import data
from evaluation.embedding import EmbeddedVideo
from running.errors import UserError

SETTINGS = dict(
    dataset='folder', data=None, data_seed=0, backbone='tiny', weights='random', layers=[2, 4],
    pool='lstp', entities=2, entity_width=8, disjoint=False, readout='cls', frames=8,
    fc_width=16, depth=3, merge=1, embedding=12, dropout=0.1, loss='scl', train_backbone=[],
    image_size=24,
    workers=0, seed=0)


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


def unit_length(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def random_videos(count, seed=0, width=6, classes=3, shortest=3, longest=20):
    """Unit embeddings of random lengths -> [(n, D)], [labels (n,)]; some frames have no label."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest, count)
    embeddings = [unit_length(rng.normal(size=(n, width))) for n in lengths]
    labels = [phases(n, classes) for n in lengths]
    for one in labels:
        one[rng.random(len(one)) < 0.15] = -1
    return embeddings, labels


def paced_videos(seed, classes, count=40, width=16):
    """Videos that pass through the phases, each at its own pace, under more or less noise."""
    rng = np.random.default_rng(seed)
    curves = np.random.default_rng(99).normal(size=(5, width))
    noise = 0.2 + seed % 4
    embeddings = []
    labels = []
    for n in rng.integers(15, 40, count):
        time = np.linspace(0, 1, n) ** rng.uniform(0.5, 2)
        waves = np.cos(np.outer(time, np.arange(5) * np.pi))
        embeddings.append(unit_length(waves @ curves + noise * rng.normal(size=(n, width))))
        labels.append(np.minimum((np.linspace(0, 1, n) * classes).astype(int), classes - 1))
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


def optimum(x, y):
    """Softmax regression by Newton's method in float64, its Hessian written down -> (D+1, K)."""
    x = np.c_[x, np.ones(len(x))].astype(float)
    D = x.shape[1]
    K = y.max() + 1
    penalty = np.ones((D, 1))
    penalty[-1] = 0                                       # not the intercept
    w = np.zeros((D, K))
    for _ in range(30):
        p = np.exp(x @ w - (x @ w).max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        gradient = x.T @ (p - np.eye(K)[y]) + penalty * w
        if np.abs(gradient).max() < 1e-9:
            return w
        step = np.linalg.lstsq(hessian(x, p, penalty), gradient.ravel())[0]
        w = w - step.reshape(D, K)
    raise AssertionError('Newton has not converged')


def hessian(x, p, penalty):
    """Of the sum of cross-entropies, at probabilities p (n, K) -> (D K, D K)."""
    D = x.shape[1]
    K = p.shape[1]
    h = np.zeros((D, K, D, K))
    for k in range(K):
        h[:, k, :, k] += np.diag(penalty[:, 0])
        for j in range(K):
            weight = p[:, k] * (np.eye(K)[k, j] - p[:, j])
            h[:, k, :, j] += x.T @ (x * weight[:, None])
    return h.reshape(D * K, D * K)


def with_ones(x):
    """Inputs with the intercept's column."""
    return np.c_[x, np.ones(len(x))].astype(float)


def optimum(x, y):
    """Softmax regression by Newton's method in float64 -> (D+1, K)."""
    x = torch.from_numpy(with_ones(x))
    y = torch.from_numpy(y)

    def loss(w):
        w = w.reshape(x.shape[1], -1)
        return F.cross_entropy(x @ w, y, reduction='sum') + w[:-1].square().sum() / 2

    w = torch.zeros(x.shape[1] * (int(y.max()) + 1), dtype=torch.float64)
    for _ in range(30):
        gradient = jacobian(loss, w)
        if gradient.abs().max() < 1e-9:
            return w.reshape(x.shape[1], -1).numpy()
        w = w - torch.linalg.lstsq(hessian(loss, w), gradient, driver='gelsd').solution
    raise AssertionError('Newton has not converged')
