"""One bridged ResNet-50 step, 32 tiles of each sensor at 120 px: a plain re-enactment of the published step (float32, text tower forward and backward on every
caption, each padded to 64 tokens) against this book's, one change at a time. Images per second, all in one run."""
import sys, time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from closp_nb.bridge import CLOSP_NB, PAPER, bridge_losses, new_model
from closp_nb.core import S1, S2
from closp_nb.labels import LABELS, caption, multihot

def batch(bs, seed=0):
    rng = np.random.default_rng(seed)
    x, y = {}, {}
    for s in (S1, S2):
        labels = [tuple(rng.choice(LABELS, rng.integers(1, 4), replace=False)) for _ in range(bs)]
        y[s.key] = torch.from_numpy(multihot(labels))
        x[s.key] = dict(pixels=torch.from_numpy(rng.standard_normal((bs, len(s.bands), 120, 120), 'float32')), captions=[caption(ls) for ls in labels])
    return x, y

class Padded(nn.Module):
    "The text tower as published: every caption, padded to 64 tokens, learns."
    def __init__(self, reader):
        super().__init__()
        self.net, self.tok, self.dim = reader.net.requires_grad_(True), reader.tok, reader.dim
    def forward(self, texts): return self.net(**self.tok(list(texts), padding='max_length', truncation=True, max_length=64, return_tensors='pt')).last_hidden_state[:, 0]

def rate(model, recipe, x, y, half=False, steps=4):
    "Images per second of whole steps."
    opt, n = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4), sum(map(len, y.values()))
    def step():
        with torch.autocast('cpu', torch.bfloat16) if half else nullcontext(): out = model(x)
        out = {k: {f: F.normalize(v.float(), dim=1) if f in ('image', 'text') else v for f, v in o.items()} if isinstance(o, dict) else o.float() for k, o in out.items()}
        sum(bridge_losses(out, y, recipe).values()).backward()
        opt.step(); opt.zero_grad()
    step()
    best = 0
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(steps): step()
        best = max(best, steps*n/(time.perf_counter()-start))
    return best

def measure(bs=32, towers='resnet50', steps=4):
    (x, y), seen = batch(bs), {}
    paper = replace(PAPER, towers=towers)
    model = new_model(paper).train()
    model.text = Padded(model.text)
    seen['published'] = rate(model, paper, x, y, steps=steps)
    ours = replace(CLOSP_NB, towers=towers)
    model = new_model(ours).train()
    seen['text read once'] = rate(model, ours, x, y, steps=steps)
    for t in model.images.values(): t.to(memory_format=torch.channels_last)
    x = {k: b | dict(pixels=b['pixels'].contiguous(memory_format=torch.channels_last)) for k, b in x.items()}
    seen['+ channels last'] = rate(model, ours, x, y, steps=steps)
    seen['+ bf16'] = rate(model, ours, x, y, True, steps)
    for k, v in seen.items(): print(f'{k:16s} {v:6.1f} images/s', flush=True)
    return seen['+ bf16']/seen['published']

if __name__ == '__main__':
    fast = any(f in Path('/proc/cpuinfo').read_text() for f in ('avx512_bf16', 'amx_bf16')) if Path('/proc/cpuinfo').exists() else False
    print(f'{torch.get_num_threads()} threads, {"with" if fast else "without"} bf16 in the processor')
    print(f'bench_train ratio={measure():.1f} goal={4 if fast else 2}')
