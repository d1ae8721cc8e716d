"Write README.md from nbs/index.ipynb, with the outputs that are stored there: `python tests/readme.py`."

import json
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX, README = ROOT / 'nbs' / 'index.ipynb', ROOT / 'README.md'
HEAD = '<!-- Written from nbs/index.ipynb by `python tests/readme.py`; edit the notebook. -->'


def _links(
    text,  # markdown whose relative links start in nbs/
):  # the same with links that start in the root
    "Make relative links right for a file in the root; fenced code stays as it is."

    def move(m):
        path, mark, rest = re.match(r'([^#?]*)([#?]?)(.*)', m[2]).groups()
        return m[1] + posixpath.normpath(posixpath.join('nbs', path)) + mark + rest

    relative = r'''(\]\(|\b(?:src|href)=["'])(?!\w+:|[#/])([^)\s"']+)'''
    parts = re.split(r'(^```.*?^```[ ]*$|`[^`\n]+`)', text, flags=re.M | re.S)
    return ''.join(p if i % 2 else re.sub(relative, move, p) for i, p in enumerate(parts))


def _fence(text, lang=''):
    "Text between fences that it does not contain."
    ticks = '`' * max([3] + [len(t) + 1 for t in re.findall('`{3,}', text)])
    return f'{ticks}{lang}\n{text.rstrip()}\n{ticks}'


def _outputs(cell):
    "The stored outputs of a code cell, as markdown."
    for o in cell['outputs']:
        data = o.get('data', {'text/plain': o.get('text', '')})
        if 'text/markdown' in data:
            yield _links(''.join(data['text/markdown']).strip())
        elif any(k.startswith('image/') for k in data):
            raise ValueError(
                'nbs/index.ipynb holds a picture in an output; save it as nbs/images/NAME.jpg '
                'and show it with ![...](images/NAME.jpg)'
            )
        elif text := ''.join(data.get('text/plain', '')).strip('\n'):
            yield _fence(text)


def _cell(cell):
    "The markdown blocks of one cell."
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
        yield _links(source.strip())
    if cell['cell_type'] != 'code':
        return
    flags = {re.sub(r'\s', '', f) for f in re.findall(r'^#\s*\|\s*(.+)$', source, flags=re.M)}
    if flags & {'hide', 'include:false'}:
        return
    code = re.sub(r'^#\s*\|.*\n?', '', source, flags=re.M).strip('\n')
    if code and 'echo:false' not in flags:
        yield _fence(code, 'python')
    if 'output:false' not in flags:
        yield from _outputs(cell)


def render(
    index=INDEX,  # the notebook
) -> str:  # of README.md
    "The notebook as markdown."
    cells = json.loads(Path(index).read_text(encoding='utf-8'))['cells']
    return '\n\n'.join([HEAD] + [b for c in cells for b in _cell(c) if b]) + '\n'


if __name__ == '__main__':
    README.write_text(render(), encoding='utf-8')
