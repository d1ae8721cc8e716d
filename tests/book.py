"""The book as a website without Quarto, from what git knows: `python tests/book.py [FOLDER]` (_docs if not given).

nbdev prepares the pages as it does for Quarto; smalldocs writes them, in pure Python, and the formulas become
MathML, so nothing is fetched when a page is read.
"""

import html
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

# what only Quarto reads; it also drops the numbers from file names
QUARTOS = 'output-file|^unknown key (lang|license|citation)$|html-math-method'

PREPARE = '''
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
if __name__ == '__main__':
    refresh_quarto_yml()
    proc_nbs(n_workers=2)
'''


def copy_tree(
    to,  # folder to make
):  # the folder; raises CalledProcessError where the project is no git checkout
    "The project as a fresh clone would hold it, changes that are not committed included."
    names = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for f in filter(None, names.split('\0')):
        if not (ROOT / f).exists():
            continue
        (to / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / f, to / f, follow_symlinks=False)
    return to


def _formula(m):
    from latex2mathml.converter import convert

    return convert(html.unescape(m[2]).strip()[2:-2].strip(), display='block' if m[1] == 'display' else 'inline')


def offline(
    site,  # folder of pages
):
    "Formulas as MathML, fonts of the reader's own machine."
    for p in site.rglob('*.html'):
        text = re.sub(
            r'<span class="math (inline|display)">(.*?)</span>', _formula, p.read_text(encoding='utf-8'), flags=re.S
        )
        p.write_text(re.sub(r'<(link|script)\b[^>]*\bcdn\.[^>]*>(</script>)?', '', text), encoding='utf-8')
    for p in site.rglob('*.css'):
        p.write_text(re.sub(r'@import url\((https?:)?//[^)]*\);?', '', p.read_text(encoding='utf-8')), encoding='utf-8')


def build(
    out,  # folder to make; one that is there is replaced
):  # what the renderer warned of
    "Write all pages."
    with tempfile.TemporaryDirectory() as tmp:
        tree = copy_tree(Path(tmp) / 'tree')
        for cmd in ([sys.executable, '-c', PREPARE], [sys.executable, '-m', 'smalldocs.cli', 'render', '_proc']):
            p = subprocess.run(cmd, cwd=tree, capture_output=True, text=True, timeout=560)
            if p.returncode:
                raise RuntimeError(p.stdout[-2000:] + p.stderr[-4000:])
        offline(tree / '_proc' / '_docs')
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(tree / '_proc' / '_docs', out)
    return [w for w in re.findall(r'^warning: (.*)', p.stderr, flags=re.M) if not re.search(QUARTOS, w)]


class Page(HTMLParser):
    "What a page points to, what can be pointed at, and pictures without words."

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.mute, self.loads = [], set(), [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if 'id' in a:
            self.ids.add(a['id'])
        if tag == 'a' and a.get('href'):
            self.links.append(a['href'])
        if (
            tag in ('img', 'script', 'link')
            and a.get('rel') not in ('canonical',)
            and (u := a.get('src') or a.get('href'))
        ):
            self.loads.append(u)
        if tag == 'img' and not a.get('alt'):
            self.mute.append(a.get('src', '')[:40])


def check(
    site,  # folder of pages
):  # one line for each thing to mend
    "Links and anchors that lead nowhere, files that are missing or come from elsewhere, pictures without words."
    pages = {p.relative_to(site).as_posix(): Page(p) for p in sorted(site.rglob('*.html'))}
    for name, page in pages.items():
        for u in page.loads:
            if re.match(r'(https?:)?//', u):
                yield f'{name} loads {u}'
        for u in [*page.links, *page.loads]:
            if re.match(r'\w+:|//', u):
                continue
            path, _, anchor = unquote(u).partition('#')
            at = ((site / name).parent / path.partition('?')[0]).resolve() if path else site / name
            if at.is_dir():
                at /= 'index.html'
            if not at.is_file():
                yield f'{name} points to {u}, which is not there'
            elif (
                anchor
                and at.suffix == '.html'
                and anchor not in pages[at.relative_to(site.resolve() if path else site).as_posix()].ids
            ):
                yield f'{name} points to {u}; the page has no such place'
        for src in page.mute:
            yield (
                f'{name} shows a picture without words for those who cannot see it ({src}); '
                'begin its cell with `#| fig-alt: ...`'
            )


if __name__ == '__main__':
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / '_docs')
    found = [*build(out), *check(out)]
    print(*found, f'{len(list(out.rglob("*.html")))} pages in {out}, {len(found)} things to mend', sep='\n')
    sys.exit(bool(found))
