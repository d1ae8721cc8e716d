"""Images per second of embedding, in batches of 64: ResNet-50 at 120 px and ViT-S at 224 (from 120).

Plain float32 against bfloat16 with channels last, as `embed(precision='bf16')` does it; how far the answers move, and
the fraction of the device's own bf16 matrix speed. All in one run, in turns, on the GPU if there is one; tiles lie
there already.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch
from torch.utils.flop_counter import FlopCounterMode
from closp_nb.models.config import CLOSP_NB
from closp_nb.models.inference import bf16_encoder, encode_numpy
from closp_nb.models.closp import new_model
from clock import DEVICE, in_turns, matrix_peak, told


def measure(name, batch_size=64, rounds=3, min_seconds=3.0, sensor='s2', peak=None):
    "Print the speed of both; return the ratio and the smallest cosine between the two."
    model = new_model(CLOSP_NB.change(image_encoder=name, text_encoder='tiny'), (sensor,)).eval().to(DEVICE)
    x = torch.randn(batch_size, 12, 120, 120, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with FlopCounterMode(display=False) as count, torch.inference_mode():
        model.encode_image(sensor, x[:1])
    flops, quick = count.get_total_flops(), new_model(model.recipe, (sensor,)).eval().to(DEVICE)
    with bf16_encoder(quick) as half:
        ways = {
            'float32': lambda: encode_numpy(model.encode_image, sensor, x),
            'bf16 and channels last': lambda: half(quick.encode_image, sensor, x),
        }
        a, b = (f() for f in ways.values())
        rate = {n: batch_size / t for n, t in in_turns(ways, rounds, min_seconds).items()}
    peak, near = peak or matrix_peak(), (a * b).sum(1).min()
    for n, r in rate.items():
        print(f'{name:10s} {n:24s} {r:8.1f} images/s, {r * flops / peak:.0%} of the bf16 peak', flush=True)
    print(f'{name:10s} {flops / 1e9:.1f} GFLOP an image; smallest cosine between the two {near:.4f}', flush=True)
    return rate['bf16 and channels last'] / rate['float32'], near


if __name__ == '__main__':
    peak = matrix_peak()
    print(f'{told()}; bf16 matrix product {peak / 1e12:.2f} TFLOP/s')
    ratios = {n: measure(n, peak=peak)[0] for n in ('resnet50', 'vit_small')}
    print(f"ViT-S ratio={ratios['vit_small']:.1f} goal=2")
    print(f"bench_embed ratio={ratios['resnet50']:.1f} goal=3")
