"Who is let in by `closp explore`, and how many."

import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from chromium import served

pytest.importorskip('voila', reason='no page without voila (pip install voila)')
PAGES = 2
FORGED = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'image'}
LINK = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document'}


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    d = tmp_path_factory.mktemp('server')
    (d / 'voila.json').write_text('{"VoilaConfiguration": {"file_allowlist": [".*"], "file_denylist": []}}')
    (d / 'voila.py').write_text("open('ran', 'w').close()")
    return d


@pytest.fixture(scope='module')
def url(home, index_folder):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TMPDIR', str(home))  # its processes name their files there
        with served([str(index_folder), '--pages', str(PAGES)], home) as u:
            yield u


def get(url, **headers):
    "Status and text of an answer."
    request = urllib.request.Request(url, headers={k.replace('_', '-'): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def kernels(home):
    "How many pages run."
    shown = subprocess.run(['ps', '-ewwo', 'args'], capture_output=True, text=True).stdout
    return sum('ipykernel_launcher' in s and str(home) in s for s in shown.splitlines())


@pytest.mark.parametrize('path', ['', 'voila/static/voila.js', 'api/kernels/1-2-3-4-5', 'login'])
@pytest.mark.parametrize('name', ['evil.example', 'evil.example:8866', '192.0.2.7', 'localhost.evil.example'])
def test_a_foreign_name_is_refused(url, path, name):
    base, _, token = url.partition('?')
    code, text = get(f'{base}{path}?{token}', Host=name)
    assert code == 403 and 'does not go by that name' in text and '<' not in text


@pytest.mark.parametrize('path', ['', '?token=', '?token=guess', 'api/kernels/1-2-3-4-5', 'login', '?template=x'])
def test_without_the_token_nothing_runs(url, home, path):
    code, text = get(url.partition('?')[0] + path)
    assert code == 403 and 'token' in text and kernels(home) == 0


@pytest.mark.parametrize(
    'headers', [FORGED, FORGED | {'Sec-Fetch-Site': 'same-site'}, {'Sec-Fetch-Site': 'cross-site'}]
)
def test_a_forged_request_is_refused(url, headers):
    assert get(url, **headers)[0] == 403


def test_pages_are_counted(url, home):
    "Twenty visitors at one moment, and two pages; nothing of the folder is read or run."
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda i: get(url, **(LINK if i % 2 else {})), range(20)))
    assert sorted(code for code, _ in answers) == [200] * PAGES + [503] * (20 - PAGES)
    assert {text for code, text in answers if code == 503} == {
        '503: 2 pages are open already; close one, or start with more pages\n'
    }
    assert not (home / 'ran').exists() and kernels(home) == PAGES
    assert get(url.replace('/?', '/voila/files/closp.ipynb?'))[0] == 403
    assert len(url.partition('token=')[2]) >= 40


def test_a_page_nobody_looks_at_makes_room(monkeypatch):
    "Its process ends when another visitor comes, and also after a while."
    import asyncio
    from datetime import datetime, timedelta, timezone
    from types import SimpleNamespace

    from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager as Manager

    from closp_nb.explorer.server import LOST_AFTER, _counted_kernels

    async def start(self, **kwargs):
        self._kernels[kwargs['name']] = SimpleNamespace(last_activity=datetime.now(timezone.utc))
        return kwargs['name']

    async def shutdown(self, kernel_id, now=False):
        del self._kernels[kernel_id]

    monkeypatch.setattr(Manager, 'start_kernel', start)
    monkeypatch.setattr(Manager, 'shutdown_kernel', shutdown)

    async def visits():
        m = _counted_kernels(2)()
        for name in 'ab':
            await m.start_kernel(name=name)
        for k in m._kernels.values():
            k.last_activity -= LOST_AFTER + timedelta(seconds=1)
        m._kernel_connections['a'] = 1
        await m.start_kernel(name='c')
        assert m.list_kernel_ids() == ['a', 'c']
        with pytest.raises(Exception, match='2 pages are open'):
            await m.start_kernel(name='d')

    asyncio.run(visits())
