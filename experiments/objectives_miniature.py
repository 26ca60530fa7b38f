"""Every objective of loss.OBJECTIVES on the synthetic set, quickly enough for several seeds.

The backbone is frozen, so its features are computed once: of every train video in a clean version
and four augmented ones, of every val video in the clean one. A run draws its two views from two
augmented versions. All else is what train.py does, by the same functions: `data.Clips` draws frames
and labels, `train.training_step` is the step, `evaluate.score` scores the clean versions.

    python experiments/objectives_miniature.py --data-seed 3       three learning rates, one run each
    python experiments/objectives_miniature.py --data-seed 6 --seeds 0,1,2 --lr best
    python experiments/objectives_miniature.py --table             what is there so far

Every run is one line of --out; those that are there already are not run again.
"""
import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import evaluate
import model as models
import train
from model import Features
from evaluation.embedding import EmbeddedVideo, embed_entities
from experiment import ALL_LAYERS, METRICS, cache
from loss import OBJECTIVES

VERSIONS = 4                             # augmented ones of a train video
RATES = '1e-4,3e-4,1e-3'
CHOSEN_BY = ('classification', 'ap5')    # their mean chooses the learning rate
CPU = torch.device('cpu')


# ----------------------------------------------------------------------------------------------
# The frozen features, once

def cached_features(folder, videos, settings):
    """{name of the video: (1 or 1 + VERSIONS, n, P, L*C), half precision, the clean version first}.

    From the file of an earlier call where there is one.
    """
    path = folder / f'features_{settings.data_seed}_{settings.image_size}.pt'
    if not path.exists():
        backbone = models.build_backbone('tiny', layers=ALL_LAYERS,
                                         image_size=settings.image_size)
        cached = {}
        for split, count in (('train', VERSIONS), ('val', 0)):
            found = cache(backbone, videos[split], count, settings.data_seed, settings.layers)
            for video in videos[split]:
                versions = found.pop(0).versions                      # frees them one by one
                cached[video.name] = joined(versions, settings.layers)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(cached, path)
    return torch.load(path, mmap=True, weights_only=True)


def joined(versions, layers):
    """[experiment.Version] -> (versions, n, P, L*C)."""
    clips = []
    for version in versions:
        patches = [version.patches[layer] for layer in layers]
        clips.append(torch.cat(patches, -1))                          # (n, P, L*C)
    return torch.stack(clips)


class CachedBackbone(nn.Module):
    """Takes features (F, 1, P, L*C) where a backbone takes images (F, 3, H, W)."""

    def __init__(self, backbone):
        super().__init__()
        self.frozen = backbone
        self.channels = backbone.channels
        self.width = backbone.width

    def forward(self, images):
        return Features(images[:, 0].float(), None)


def blank(indices):
    """Frames of one pixel, instead of decoding what nobody looks at."""
    return torch.zeros(len(indices), 3, 1, 1, dtype=torch.uint8)


class CachedClips(data.Clips):
    """Clips without pixels, that also draw which two of the augmented versions are the views."""

    def __init__(self, videos, **settings):
        super().__init__([replace(video, decode=blank) for video in videos], **settings)

    def join(self, rng, drawn):
        versions = 1 + rng.permutation(VERSIONS)[:2]
        return super().join(rng, drawn) | {'versions': versions}


def cached_views(cached):
    """What stands for data.views: a batch -> its frames' features (B, 2, T, 1, P, L*C)."""
    def views(batch, size, device):
        clips = []
        for names, times, versions in zip(batch['names'], batch['time'], batch['versions']):
            view_a = cached[names[0]][versions[0]][times[0]]          # (T, P, L*C)
            view_b = cached[names[-1]][versions[1]][times[1]]
            clips.append(torch.stack([view_a, view_b]))
        return torch.stack(clips)[:, :, :, None]
    return views


# ----------------------------------------------------------------------------------------------
# One run

def train_model(settings, backbone, videos, cached):
    """-> the trained model, its losses, how the teacher's entropy went: [(step, whole, single)]."""
    s = settings
    objective = OBJECTIVES[s.loss]
    clips = CachedClips(videos, frames=s.frames, seed=s.seed, block=s.block, shift=s.shift,
                        pairs=s.pairs, interleaved=objective.interleaved,
                        with_labels=objective.labels)
    torch.manual_seed(s.seed)
    model = models.build_model(asdict(s), backbone)
    if objective.head:
        model.head = objective.head(s.embedding, clips.classes)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=s.lr, weight_decay=s.weight_decay)
    options = {name: getattr(s, name) for name in objective.settings}
    if objective.head and not objective.loss_on_head_output:
        options['classifier'] = model.head
    teacher = objective.teacher(model) if objective.teacher else None

    model.train()
    losses = []
    entropies = []
    steps = len(videos) // s.batch
    for step, keys in enumerate(train.batches(len(videos), s, 0, 0, 1)):
        for group in optimizer.param_groups:
            group['lr'] = train.learning_rate(s, step // steps)
        batch = data.collate([clips[key] for key in keys])
        with patch.object(data, 'views', cached_views(cached)):
            loss, _ = train.training_step(model, batch, s, optimizer, CPU, options, teacher)
        losses.append(loss.item())
        if teacher:
            if step in (0, 9, 29) or (step + 1) % 60 == 0:
                entropies.append((step + 1, *teacher_entropy(teacher)))
            teacher.follow(model, step / (s.epochs * steps))
    return model.eval(), losses, entropies


def teacher_entropy(teacher):
    """Of what the teacher said in the last step, in units of log K: the entropy of the mean over
    all frames, which is 0 where all say the same one thing; and the mean of each frame's own.

    They are alike where all frames say the same, whatever it is.
    """
    logits = teacher.logits[teacher.valid]                            # (frames, K)
    q = ((logits - teacher.centre) / 0.04).softmax(-1)
    most = np.log(q.shape[-1])
    whole = torch.special.entr(q.mean(0)).sum() / most
    single = torch.special.entr(q).sum(-1).mean() / most
    return whole.item(), single.item()


def embed_video(model, video, versions):
    """The clean version -> (n, D)."""
    entities, _ = model.entities(versions[0][:, None])                # (n, N, d)
    return embed_entities(model, entities, len(entities), limit=1000)


@torch.no_grad()
def score(embed, videos):
    """embed: a function of a video -> {metric: mean over the actions}."""
    embedded = {}
    embeddings = {}
    for split in videos:
        embedded[split] = []
        embeddings[split] = []
        for video in videos[split]:
            everything = np.arange(video.frames)
            embedded[split].append(EmbeddedVideo(video, video.frames, everything, video.labels))
            embeddings[split].append(embed(video))
    scores = evaluate.score('synthetic', embedded, embeddings)['mean']
    return {metric: scores[metric] for metric in METRICS}


def run(settings, backbone, videos, cached):
    """Train and score one model -> a dict, one line of the results' file."""
    begun = time.time()
    model, losses, entropies = train_model(settings, backbone, videos['train'], cached)
    trained = time.time()
    scores = score(lambda video: embed_video(model, video, cached[video.name]), videos)
    last = losses[-len(losses) // settings.epochs:]                   # of the last epoch
    return scores | dict(first_loss=losses[0], last_loss=float(np.mean(last)),
                         entropy=entropies, seconds=round(trained - begun))


def controls(settings, backbone, videos, cached):
    """What needs no training -> {name: {metric: value}}."""
    model = evaluate.untrained(asdict(settings), models.build_model(asdict(settings), backbone))
    return {
        'clock': score(lambda video: evaluate.clock(video.frames), videos),
        'untrained': score(lambda video: embed_video(model, video, cached[video.name]), videos),
    }


# ----------------------------------------------------------------------------------------------
# The table

def best_rate(results, name):
    """The learning rate at which a row was best in the runs that tried several.

    A row with merged tokens has that of the row without.
    """
    found = [result for result in results if result['row'] == name and result['purpose'] == 'rate']
    if not found:
        raise SystemExit(f'--lr best: {name} has not been tried at any rate yet; first run this '
                         f'script without --lr best, on another --data-seed')
    return max(found, key=quality)['lr']


def quality(result):
    return np.mean([result[metric] for metric in CHOSEN_BY])


def print_table(results):
    """First the runs that chose the rates, one a line; then mean and 2 standard deviations."""
    print(f'{"rate":18}{"lr":>8}' + ''.join(f'{metric:>16}' for metric in METRICS))
    groups = {}
    for result in results:
        title = f'{result["row"]:18}{result["lr"]:8.0e}'
        if result['purpose'] == 'rate':
            print(title + ''.join(f'{result[metric]:16.3f}' for metric in METRICS))
        else:
            groups.setdefault(title, []).append(result)
    print(f'\n{"row":18}{"lr":>8}' + ''.join(f'{metric:>16}' for metric in METRICS) + '  runs')
    for title, runs in groups.items():
        cells = ''
        for metric in METRICS:
            values = [each[metric] for each in runs]
            cell = f'{np.mean(values):.3f} ± {2 * np.std(values):.3f}'
            cells += f'{cell:>16}'
        print(f'{title}{cells}{len(runs):6}')
    print_entropies(results)


def print_entropies(results):
    """How the teacher's entropy went, in units of log K: of all frames' mean, of single frames."""
    for result in results:
        if result.get('entropy'):
            print(f'\n{result["row"]}, lr {result["lr"]:.0e}, data seed {result["data_seed"]}, '
                  f'seed {result["seed"]}:    step   all  single')
            for step, whole, single in result['entropy']:
                print(f'{step:8}{whole:8.3f}{single:8.3f}')


def row_name(loss, pairs, merge):
    """'gta', 'gta videos', 'scl merge 2'."""
    name = loss
    if pairs == 'videos':
        name += ' videos'
    if merge > 1:
        name += f' merge {merge}'
    return name


def read_results(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--losses', default=','.join(OBJECTIVES), help='e.g. scl,gta')
    parser.add_argument('--pairs', default='views', choices=['views', 'videos'])
    parser.add_argument('--merge', type=int, default=1)
    parser.add_argument('--lr', default=RATES, help="to try each of them; or 'best'")
    parser.add_argument('--data-seed', type=int, default=3, help='draws the videos')
    parser.add_argument('--seeds', default='0', help='of training, e.g. 0,1,2')
    parser.add_argument('--epochs', type=int, default=train.preset('synthetic').epochs)
    parser.add_argument('--out', type=Path, default=Path('runs/objectives.jsonl'))
    parser.add_argument('--table', action='store_true', help='only print what is in --out')
    return parser.parse_args()


def settings_of(args, loss, seed, rate):
    settings = train.preset('synthetic').resolve()
    settings.loss = loss
    settings.seed = seed
    settings.lr = rate
    settings.pairs = args.pairs
    settings.merge = args.merge
    settings.epochs = args.epochs
    settings.data_seed = args.data_seed
    return settings


def plan(args, results):
    """-> the settings of all runs asked for that are not among the results."""
    done = {(each['row'], each['lr'], each['data_seed'], each['seed']) for each in results}
    runs = []
    for seed in args.seeds.split(','):
        for loss in args.losses.split(','):
            name = row_name(loss, args.pairs, args.merge)
            rates = args.lr.split(',')
            if args.lr == 'best':
                unmerged = row_name(loss, args.pairs, merge=1)
                rates = [best_rate(results, unmerged)]
            for rate in map(float, rates):
                if (name, rate, args.data_seed, int(seed)) not in done:
                    runs.append(settings_of(args, loss, int(seed), rate))
                    train.check(runs[-1], world=1)
    return runs


def note(result, path):
    """A line of the results' file, and of the screen."""
    line = json.dumps(result)
    print(line, flush=True)
    with open(path, 'a') as file:
        file.write(line + '\n')


def main():
    args = parse()
    results = read_results(args.out)
    if args.table:
        return print_table(results)
    runs = plan(args, results)
    settings = settings_of(args, loss=None, seed=0, rate=0.)
    videos = data.load('synthetic', seed=args.data_seed)
    cached = cached_features(args.out.parent, videos, settings)
    backbone = CachedBackbone(models.build_backbone('tiny', layers=settings.layers))
    about = dict(data_seed=args.data_seed, purpose='rate')
    if args.lr == 'best':
        about['purpose'] = 'seeds'
        if not any(result['row'] == 'clock' for result in results):
            for name, scores in controls(settings, backbone, videos, cached).items():
                note(dict(row=name, lr=0., seed=0) | about | scores, args.out)
    for settings in runs:
        name = row_name(settings.loss, settings.pairs, settings.merge)
        result = dict(row=name, lr=settings.lr, seed=settings.seed) | about
        note(result | run(settings, backbone, videos, cached), args.out)
    print_table(read_results(args.out))


if __name__ == '__main__':
    main()
