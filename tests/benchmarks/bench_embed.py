"""Embedding tiles, batches of 64: ResNet-50 at 120 px and ViT-S at 224 (from 120), plain float32 against bfloat16 with channels last, as `embed(precision='bf16')` does it;
how far the answers move, and the share of the processor's own bf16 matrix speed. All in one run."""
import sys, time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch
from torch.utils.flop_counter import FlopCounterMode
from closp_nb.bridge import CLOSP_NB, new_model
from closp_nb.index import fast_rows, unit_rows

def rate(f, x, seconds=6):
    f(x)
    n, start = 0, time.perf_counter()
    while (t := time.perf_counter()-start) < seconds: f(x); n += len(x)
    return n/(time.perf_counter()-start)

def peak(n=2048, seconds=3):
    "Floating-point operations per second of a large bf16 matrix product."
    a = torch.randn(n, n, dtype=torch.bfloat16)
    return rate(lambda x: x @ x, a, seconds)/n*2*n**3

def measure(name, bs=64, seconds=6, sensor='s2'):
    model = new_model(replace(CLOSP_NB, towers=name, text='tiny'), (sensor,)).eval()
    x = torch.randn(bs, 12, 120, 120, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as count, torch.inference_mode(): model.encode_image(sensor, x[:1])
    plain = rate(lambda x: unit_rows(model.encode_image, sensor, x), x, seconds)
    a = unit_rows(model.encode_image, sensor, x)
    with fast_rows(model) as rows:
        quick = rate(lambda x: rows(model.encode_image, sensor, x), x, seconds)
        b = rows(model.encode_image, sensor, x)
    share = quick*count.get_total_flops()/peak()
    print(f'{name:10s} float32 {plain:6.1f} images/s, bf16 and channels last {quick:6.1f}, {quick/plain:.1f} times; {count.get_total_flops()/1e9:.1f} GFLOP an image, {share:.0%} of the bf16 peak; smallest cosine to float32 {(a*b).sum(1).min():.4f}', flush=True)
    return quick/plain

if __name__ == '__main__':
    ratios = {n: measure(n) for n in ('resnet50', 'vit_small')}
    print(f"bench_embed ratio={ratios['resnet50']:.1f} goal=3 (ViT-S {ratios['vit_small']:.1f}, goal 2)")
