"""How far a frame's vector depends on the clip around it: the MTF sees all of a video's frames.

    python experiments/whole_clip.py CHECKPOINT

The val videos are embedded whole and in halves, each half a sequence with a time code of its own.
Printed: the mean cosine between the two vectors of the same frame, and AP@5 of both.
"""
import math
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import evaluate
from evaluation.command import load_models
from evaluation.embedding import embed_entities, entities_of, evaluating
from running.processes import pick_device


@torch.no_grad()
def whole_and_halves(network, video):
    """-> embeddings (n, D) of a video as one sequence, and as two."""
    device = next(network.mtf.parameters()).device
    with evaluating([network]):
        parts = [entities_of([network], part.to(device))[0] for part in video.parts()]
        entities = torch.cat(parts)                                           # (n, N, d)
        n = len(entities)
        return [embed_entities(network, entities, n, limit) for limit in (n, math.ceil(n / 2))]


def main():
    networks, all_settings = load_models(sys.argv[1:], pick_device())
    settings = next(iter(all_settings.values()))
    network, = networks.values()
    videos = data.load(settings['dataset'], settings['data'], image_size=settings['image_size'],
                       seed=settings['data_seed'], label_unit=settings['label_unit'])['val']
    whole, halves = zip(*[whole_and_halves(network, video) for video in videos])
    cosines = np.concatenate([(a * b).sum(1) for a, b in zip(whole, halves)])
    labels = [video.labels for video in videos]
    stride = data.DATASETS[settings['dataset']].stride
    print(f'{len(videos)} val videos of {settings["dataset"]}, {len(cosines)} frames: mean cosine '
          f'{cosines.mean():.3f}, a tenth of the frames below {np.quantile(cosines, 0.1):.3f}')
    for name, embeddings in (('whole', whole), ('in halves', halves)):
        print(f'{name:10} AP@5 {evaluate.retrieval(embeddings, labels, 5, stride):.4f}')


if __name__ == '__main__':
    main()
