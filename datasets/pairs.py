"""Clips of other objectives than SCL: anchors with positives, and pairs of videos."""
import numpy as np
import torch

from data import Clips, two_views


def interleaved_views(rng, length, frames, **sampling):
    """As two_views, of pairs (TCN): T/2 anchors, each followed by a positive, 1 to 5 frames before
    it in the video. -> int64 (2, T)"""
    anchors = two_views(rng, length, frames // 2, **sampling)             # (2, T/2)
    positives = np.maximum(anchors - rng.integers(1, 6, anchors.shape), 0)
    positives = np.where(anchors < length, positives, length)
    return np.stack([anchors, positives], -1).reshape(2, -1)


class VideoPairs(Clips):
    """One view of each of two videos of the same action, in place of two views of one video."""

    def draw(self, rng, index):
        video = self.videos[index]
        partners = [other for other in self.videos
                    if other.action == video.action and other is not video] or [video]
        partner = partners[rng.integers(len(partners))]
        first = self.read(rng, video, count=1)
        second = self.read(rng, partner, count=1)
        item = {key: first[key] + second[key] for key in ('names', 'clips')}
        for key in ('time', 'length', 'valid', 'labels'):
            item[key] = torch.cat([first[key], second[key]])
        return item
