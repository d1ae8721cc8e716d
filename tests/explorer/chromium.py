"Open the explorer in a real browser: for the tests of the page, and for its pictures."

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
SEARCH_LINE = 'input[placeholder^=flooded]'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def served(words, d):
    "Run `closp explore` with these words; gives its address, with its token."
    port, env = free_port(), os.environ | dict(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE='1')
    with open(d / 'log', 'w') as log:
        p = subprocess.Popen(
            [sys.executable, '-P', '-m', 'closp_nb.cli.main', 'explore', *words, '--quiet', '--port', str(port)],
            cwd=d,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(240):
            if p.poll() is not None:
                pytest.fail((d / 'log').read_text()[-3000:])
            with socket.socket() as s:
                if s.connect_ex(('127.0.0.1', port)) == 0:
                    break
            time.sleep(0.25)
        yield re.search(r'http://127\.0\.0\.1:\d+/\?token=\S+', (d / 'log').read_text())[0]
    finally:
        p.terminate()
        p.wait(20)


def ask(page, text):
    "Type a question and press Enter; seconds until its answer stands there with pictures."
    field = page.locator(SEARCH_LINE)
    field.fill(text)
    start = time.perf_counter()
    field.press('Enter')
    page.wait_for_function(
        "t => { const s = document.querySelector('[role=status]'); return s && s.innerText.startsWith(t + ':') }",
        arg=text,
        timeout=30_000,
    )
    page.wait_for_selector('figure img >> visible=true', timeout=30_000)
    return time.perf_counter() - start


def click(page, name, n=0):
    page.get_by_role('button', name=name, exact=True).nth(n).click()


def said(page, words):
    "Wait until the status line holds these words."
    from playwright.sync_api import TimeoutError

    try:
        page.wait_for_function(
            't => document.querySelector("[role=status]").innerText.includes(t)', arg=words, timeout=20_000
        )
    except TimeoutError:
        status, field = page.locator('[role=status]').inner_text(), page.locator(SEARCH_LINE).input_value()
        pytest.fail(f"waited for '{words}'; the page says '{status}', the field holds {field!r}")


def second(page, text):
    "Open the other side and ask there."
    click(page, 'Compare')
    page.wait_for_function('field => document.querySelectorAll(field).length === 2', arg=SEARCH_LINE)
    field = page.locator(SEARCH_LINE).nth(1)
    field.fill(text)
    field.press('Enter')
    page.wait_for_function(
        't => [...document.querySelectorAll("[role=status]")].some(s => s.innerText.startsWith(t + ":"))',
        arg=text,
        timeout=30_000,
    )


def upload(page, path):
    "Choose a file as a person does."
    with page.expect_file_chooser() as chooser:
        page.get_by_role('button', name='Open visit').click()
    chooser.value.set_files(path)
