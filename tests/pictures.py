"Take the pictures of tutorial B: python tests/pictures.py demo/index demo/world"

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent / 'explorer'))
from chromium import CHROMIUM, FLAGS, ROOT, SEARCH_LINE, ask, click, second, served  # noqa: E402

OUT = ROOT / 'nbs' / 'images'


def keep(page, name, width, **kw):
    "A screenshot as a small JPEG."
    with Image.open(io.BytesIO(page.screenshot(**kw))) as p:
        p.convert('RGB').resize((width, round(p.height * width / p.width)), Image.LANCZOS).save(
            OUT / f'{name}.jpg', quality=72, optimize=True
        )


def visit(browser, url, size):
    page = browser.new_page(viewport=dict(width=size[0], height=size[1]))
    page.goto(url, timeout=90_000)
    page.wait_for_selector(SEARCH_LINE, timeout=90_000)
    took = [ask(page, text) for text in ('flooded area near water', 'flooded area', 'flooded area near crops')]
    print(f'{size}: first answer after {took[0]:.2f} s, the next after {took[1]:.2f} and {took[2]:.2f} s')
    click(page, 'why', 1)
    page.wait_for_selector('section[aria-label=evidence] img')
    page.wait_for_timeout(1500)  # the map comes to rest
    return page


if __name__ == '__main__':
    index, train = (Path(a).resolve() for a in sys.argv[1:])
    with sync_playwright() as p, tempfile.TemporaryDirectory() as d:
        b = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for mode in ('light', 'dark'):
            with served([str(index), '--train', str(train), *['--dark'] * (mode == 'dark')], Path(d)) as url:
                page = visit(b, url, (1440, 1000))
                keep(page, f'page_wide_{mode}', 900)
                if mode == 'light':
                    second(page, 'burned area')
                    page.wait_for_timeout(1500)
                    keep(page, 'page_compare', 900)
                keep(visit(b, url, (800, 1000)), f'page_narrow_{mode}', 560)
