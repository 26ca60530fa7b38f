"""How right --predict is where only a few videos are labelled, on a set whose labels are all known.

    python experiments/few_labels.py CHECKPOINT [CHECKPOINT ...]

Of each action's train videos only 1, 3, 10 or all keep their labels, drawn three times; phases of
the val videos are then predicted as `evaluate.py --predict` does it. `right` is the share of right
val frames, mean over the actions; `said` is what the command tells its user: the share of right
frames in labelled videos held out in turn. Mean +- 2 standard deviations over draws, checkpoints.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import evaluate
from evaluation.command import load_models
from evaluation.labels import by_action
from pictures.predict import held_out_accuracy
from running.processes import pick_device

COUNTS = (1, 3, 10, None)    # labelled videos an action; None: all
DRAWS = 3                    # of them


def carry_over(lists, count, rng):
    """One action: phases from so many labelled videos -> share of right val frames, as said."""
    train, labels, val, truth = lists
    chosen = rng.permutation(len(train))[:count]
    x = [train[i] for i in chosen]
    y = [labels[i] for i in chosen]
    classifier = evaluate.fit_classifier(np.concatenate(x), np.concatenate(y))
    right = classifier.predict(np.concatenate(val)) == np.concatenate(truth)
    return right.mean(), held_out_accuracy(x, y)


def mean_of_actions(actions, count, seed):
    results = [carry_over(lists, count, np.random.default_rng([seed, number]))
               for number, lists in enumerate(actions)]
    return np.mean(results, 0)    # NaN as said, where one video is labelled


def spread(values):
    if np.isnan(values).any():
        return '-'
    return f'{np.mean(values):.3f} ± {2 * np.std(values):.3f}'


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT')
    parser.add_argument('--data', metavar='DIR', help='the data set [where it was at training]')
    args = parser.parse_args()
    networks, all_settings = load_models(args.checkpoints, pick_device(), data=args.data)
    settings = next(iter(all_settings.values()))
    videos = data.load(settings['dataset'], settings['data'],
                       image_size=settings['image_size'], seed=settings['data_seed'],
                       label_unit=settings['label_unit'])
    result = evaluate.assess(networks, videos, settings)
    embedded = result['embedded']
    kinds = {'trained': list(networks), 'untrained': ['untrained'], 'clock': ['clock']}
    print(f'{settings["dataset"]}: {len(networks)} checkpoints, {DRAWS} draws')
    print(f'{"":12}{"labelled":>10}{"right":>18}{"said":>18}')
    for kind, names in kinds.items():
        for count in COUNTS:
            runs = []
            for name in names:
                embeddings = result['embeddings'][name]
                actions = by_action(settings['dataset'], embedded, embeddings).values()
                draws = range(DRAWS if count else 1)
                runs += [mean_of_actions(actions, count, seed) for seed in draws]
            right, said = zip(*runs)
            print(f'{kind:12}{count or "all":>10}{spread(right):>18}{spread(said):>18}')


if __name__ == '__main__':
    main()
