"""Every benchmark in small: it runs as the long one does, its checks hold, and its last line can be read.

Speed itself is not judged here, but for one that is plain on any machine.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow]


FOLDER = Path(__file__).resolve().parents[1] / 'benchmarks'


def bench(*argv, code=None):
    "What a benchmark printed."
    p = subprocess.run(
        [sys.executable, *(['-c', code] if code else [str(FOLDER / argv[0]), *argv[1:]])],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert p.returncode == 0, p.stderr[-3000:]
    return p.stdout


def ratio(said, name, goal):
    "The number of the last line."
    m = re.fullmatch(rf'{name} ratio=(\d+\.\d) goal={goal}', said.splitlines()[-1])
    assert m, said
    return float(m[1])


def test_all_are_tried():
    tried = set(re.findall(r'bench_\w+', Path(__file__).read_text(encoding='utf-8')))
    assert {p.stem for p in FOLDER.glob('bench_*.py')} <= tried


def test_reading_is_faster_than_opening_each_time():
    said = bench('bench_read.py', '128', '2', '20000', '10000')
    assert ratio(said, 'bench_read', 5) > 1.5, said
    grown = re.search(r'memory: ([+-][\d.]+|\+?nan) MB', said)
    assert grown and not float(grown[1]) > 60, f'reading 384 tiles (155 MB) must leave nothing behind: {said}'


def test_catalog():
    said = bench('bench_catalog.py', '5000', '1')
    assert ratio(said, 'bench_catalog', 1) > 1 and '5000 rows' in said


def test_harmonics():
    said = bench('bench_harmonics.py')
    assert ratio(said, 'bench_harmonics', 20) > 5, said  # 28 on an idle machine


def test_metrics():
    said = bench('bench_metrics.py', '70', '3000', '100')
    assert ratio(said, 'bench_metrics', 1) > 1
    assert all(f'{m} ' in said for m in ('nDCG@100', 'P@100', 'R@100', 'R-precision', 'AP', 'RR'))


def test_search(tmp_path):
    said = bench(
        'bench_search.py',
        '--tiles',
        '20000',
        '--rounds',
        '1',
        '--sizes',
        '2000',
        '--largest',
        '0',
        '--text',
        'tiny',
        '--out',
        str(tmp_path),
    )
    ratio(said, 'bench_search', 5)
    assert len(list(tmp_path.glob('*.csv'))) == 2


def test_training_steps_agree():
    "The quick variants begin with the loss of the plain one."
    said = bench(
        code="import bench_train as b\nr, first = b.measure(batch_size=4, encoder='tiny', rounds=1, min_seconds=.02)\n"
        "print(first['text read once'], first['+ channels last'], first['+ bf16'], r)"
    )
    plain, last, half, r = map(float, said.splitlines()[-1].split())
    assert abs(plain - last) < 1e-3 and abs(plain - half) < 0.1 and r > 0, said
    assert re.search(r"print\(f'bench_train ratio=", (FOLDER / 'bench_train.py').read_text())


def test_embedding_in_bf16_agrees():
    said = bench(
        code="import bench_embed as b\n"
        "r, near = b.measure('tiny', batch_size=8, rounds=1, min_seconds=.02, peak=1e12)\nprint(r, float(near))"
    )
    r, near = map(float, said.splitlines()[-1].split())
    assert near > 0.995 and r > 0, said
    assert re.search(r'print\(f"bench_embed ratio=', (FOLDER / 'bench_embed.py').read_text())
