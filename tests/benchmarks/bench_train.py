"""Images per second of one training step: ResNet-50, 32 tiles of each sensor at 120 px.

A plain re-enactment of the published step (float32, text encoder forward and backward on every caption, each padded
to 64 tokens) against this book's, one change at a time. All in one run, in turns, on the GPU if there is one; tiles
lie there already.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from closp_nb.models.config import CLOSP_NB, PAPER
from closp_nb.models.closp import closp_losses, new_model
from closp_nb.sensors import S1, S2
from closp_nb.labels import LABELS, caption, multihot
from clock import DEVICE, in_turns, knows_bf16, told


def batch(batch_size, seed=0):
    rng = np.random.default_rng(seed)
    x, y = {}, {}
    for s in (S1, S2):
        labels = [tuple(rng.choice(LABELS, rng.integers(1, 4), replace=False)) for _ in range(batch_size)]
        y[s.key] = torch.from_numpy(multihot(labels)).to(DEVICE)
        x[s.key] = dict(
            pixels=torch.from_numpy(rng.standard_normal((batch_size, len(s.bands), 120, 120), 'float32')).to(DEVICE),
            captions=[caption(ls) for ls in labels],
        )
    return x, y


class Padded(nn.Module):
    "Run the text encoder as published: every caption, padded to 64 tokens, learns."

    def __init__(self, encoder):
        super().__init__()
        self.net, self.tok, self.dim = encoder.net.requires_grad_(True), encoder.tok, encoder.dim

    def forward(self, texts):
        options = dict(padding='max_length', truncation=True, max_length=64, return_tensors='pt')
        return self.net(**self.tok(list(texts), **options).to(DEVICE)).last_hidden_state[:, 0]


def step(recipe, x, y, published=False, channels_last=False, bf16=False):
    "Return a whole step, as a function that returns its loss."
    model = new_model(recipe).train()
    if published:
        model.text_encoder = Padded(model.text_encoder)
    model.to(DEVICE)
    if channels_last:
        for e in model.image_encoders.values():
            e.to(memory_format=torch.channels_last)
        x = {k: b | dict(pixels=b['pixels'].contiguous(memory_format=torch.channels_last)) for k, b in x.items()}
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def once():
        with torch.autocast(DEVICE.type, torch.bfloat16) if bf16 else nullcontext():
            out = model(x)
        out = {
            k: {f: F.normalize(v.float(), dim=1) if f in ('image', 'text') else v for f, v in o.items()}
            if isinstance(o, dict)
            else o.float()
            for k, o in out.items()
        }
        loss = sum(closp_losses(out, y, recipe).values())
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss.detach()

    return once


def measure(batch_size=32, encoder='resnet50', rounds=3, min_seconds=4.0, text='minilm'):
    "Print the speed of each variant; return the ratio and the first losses."
    (x, y), ours = batch(batch_size), CLOSP_NB.change(image_encoder=encoder, text_encoder=text)
    ways = {
        'published': step(PAPER.change(image_encoder=encoder), x, y, published=True),
        'text read once': step(ours, x, y),
        '+ channels last': step(ours, x, y, channels_last=True),
        '+ bf16': step(ours, x, y, channels_last=True, bf16=True),
    }
    first = {n: f().item() for n, f in ways.items()}
    rate = {n: 2 * batch_size / t for n, t in in_turns(ways, rounds, min_seconds).items()}
    for n, r in rate.items():
        print(f'{n:16s} {r:8.1f} images/s, first loss {first[n]:.4f}', flush=True)
    return rate['+ bf16'] / rate['published'], first


if __name__ == '__main__':
    print(told())
    print(f'bench_train ratio={measure()[0]:.1f} goal={4 if knows_bf16() else 2}')
