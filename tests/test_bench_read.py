"The benchmark of reading, in small: it runs, says what it must, and our way is the faster one."
import re, subprocess, sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent/'benchmarks'/'bench_read.py'

def test_reading_is_faster_than_opening_each_time():
    p = subprocess.run([sys.executable, str(BENCH), '128', '2', '20000', '10000'], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    m = re.fullmatch(r'bench_read ratio=(\d+\.\d) goal=5', p.stdout.splitlines()[-1])
    assert m and float(m[1]) > 1.5, p.stdout
    grown = re.search(r'memory: ([+-][\d.]+|\+?nan) MB', p.stdout)
    assert grown and not float(grown[1]) > 60, f'reading 384 tiles (155 MB) must leave nothing behind: {p.stdout}'
