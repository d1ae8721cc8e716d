"Run command lines in processes of their own, and read what they print."

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENV = os.environ | {'PYTHONPATH': str(ROOT), 'HF_HUB_OFFLINE': '1'}  # of processes: this checkout comes first
SMALL = ['--n', '240', '--text_encoder', 'tiny', '--epochs', '1', '--offline', '--workers', '1']


def closp(*argv, cwd, cache, **kw):
    "Run a command as a user does: in a process of its own."
    env = ENV | {'XDG_CACHE_HOME': str(cache)}
    command = [sys.executable, '-m', 'closp_nb.cli.main', *argv]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=400, **kw)


def one_line(err):
    "Return the one line on standard error that names the mend; bars of progress are no lines."
    bars = ('scan', 'embed', 'catalog', 'world', 'train')
    lines = [line for line in err.strip().splitlines() if line.strip() and not line.startswith(bars)]
    assert 'Traceback' not in err and len(lines) == 1 and lines[0].startswith('closp: '), err
    return lines[0]
