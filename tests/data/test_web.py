"Addresses: read where the user named them, refused where somebody else did."

import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from closp_nb.core import ClospError, InputError
from closp_nb.data import rasters
from closp_nb.data.catalog import Catalog
from closp_nb.data.rasters import open_raster
from closp_nb.sensors import S2
from closp_nb.synthetic.products import ground, write_stac


class Ranges(SimpleHTTPRequestHandler):
    "A server of files that knows byte ranges, as object stores do, and remembers what it was asked."

    asked: list = []

    def log_message(self, *args):
        self.asked.append(self.path)

    def do_GET(self):
        m = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        path = Path(self.translate_path(self.path))
        if not m or not path.is_file():
            return super().do_GET()
        data = path.read_bytes()
        first, last = int(m[1]), min(int(m[2] or len(data) - 1), len(data) - 1)
        self.send_response(206)
        self.send_header('Content-Range', f'bytes {first}-{last}/{len(data)}')
        self.send_header('Content-Length', str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])


@pytest.fixture
def site(tmp_path, monkeypatch):
    "A STAC collection on a server; nobody has named its host yet."
    monkeypatch.setattr(rasters, '_HOSTS', set())
    path = write_stac(tmp_path / 'www', size=240)
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Ranges, directory=str(path.parent)))
    Ranges.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    d = json.loads(path.read_text())
    for a in d['features'][0]['assets'].values():
        a['href'] = a['href'].replace('./', f'{address}/')
    (path.parent / 'web.json').write_text(json.dumps(d))
    yield address, path.parent
    server.shutdown()
    server.server_close()


def test_an_address_is_read_like_a_file(site):
    address, _ = site
    cat, report = Catalog.from_rasters(f'{address}/web.json', progress=False)
    assert len(cat) == 4 and not len(report), list(report)
    g, i = ground(240), cat.table.id.tolist().index('S2A_33UUP_20210711_0_L2A@120,0')
    x = cat[i].pixels[S2.band('B04')]
    assert np.abs(x - g.optical['B04'][120:, :120]).max() < 1e-4


def test_a_file_of_links_does_not_name_their_host(site):
    address, folder = site
    (folder / 'mine').mkdir()
    (folder / 'web.json').rename(folder / 'mine' / 'web.json')
    with pytest.raises(ClospError, match='host was not named') as e:
        Catalog.from_rasters(folder / 'mine', progress=False)
    assert '\n' not in str(e.value) and not Ranges.asked
    with pytest.raises(InputError, match='host was not named'):
        open_raster(f'/vsicurl/{address}/S2A_33UUP_20210711_0_L2A/B04.tif')
    assert not Ranges.asked


def test_a_catalog_of_another_day_asks_nobody(site, monkeypatch, tmp_path):
    address, _ = site
    cat, _ = Catalog.from_rasters(f'{address}/web.json', progress=False)
    cat.save(tmp_path / 'catalog.parquet')
    monkeypatch.setattr(rasters, '_HOSTS', set())
    from closp_nb.data import scenes

    scenes._OPEN.held = {}
    n = len(Ranges.asked)
    with pytest.raises(ClospError):
        Catalog.load(tmp_path / 'catalog.parquet')[0]
    assert len(Ranges.asked) == n


def test_a_host_that_is_gone_is_one_line():
    with pytest.raises(ClospError) as e:
        Catalog.from_rasters('http://127.0.0.1:9/items.json', progress=False)
    assert '\n' not in str(e.value) and 'Traceback' not in str(e.value)
