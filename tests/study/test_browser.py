"""The page in a real browser: nothing sticks out, and nothing is asked for from anywhere."""

import html
import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from transfer.study.compare import compare
from transfer.study.report import write_all

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")

# Runs in the page: what is wider than the window (outside of boxes that scroll), what was fetched, what is to be seen.
PROBE = """
<script>
addEventListener('load', () => {
  const width = document.documentElement.clientWidth, out = [];
  document.querySelectorAll('details').forEach(d => d.open = true);
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('svg') && e.tagName !== 'svg' && e.tagName !== 'text') continue;
    const box = e.getBoundingClientRect();
    if (box.width && (box.right > width + 1 || box.left < -1)) out.push(e.tagName + ' ' + e.textContent.slice(0, 40));
  }
  const shown = [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0);
  const result = {
    width, scroll: document.documentElement.scrollWidth, out, svgs: shown.length,
    fetched: performance.getEntriesByType('resource').map(e => e.name),
    cut: [...document.querySelectorAll('.wide')].filter(b => b.scrollWidth > b.clientWidth + 1).length,
    back: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(shown[0].querySelector('text')).fill,
    small: Math.min(...shown.flatMap(s => [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height))),
  };
  parent.postMessage(JSON.stringify({...result, name: window.frameElement.name}), '*');
});
</script>
"""
FRAME = '<iframe name="{name}" width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>'
LISTEN = """<!doctype html><body style="margin:0"><script>addEventListener('message', e => {
  const pre = document.createElement('pre');
  pre.className = 'probe';
  pre.textContent = e.data;
  document.body.append(pre);
});</script>"""


def probe(pages, folder, dark):
    """What the browser makes of pages {name: (text, width)}: each in a frame, since a window has a least width."""
    frames = [LISTEN]
    for name, (text, width) in pages.items():
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)  # it would keep the probe out
        assert "</body>" in text
        inner = html.escape(text.replace("</body>", PROBE + "</body>"))
        frames.append(FRAME.format(name=name, width=width, page=inner))
    page = folder / "frames.html"
    page.write_text("\n".join(frames), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1300,1000",
        "--virtual-time-budget=4000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    notes = re.findall(r'<pre class="probe">(\{.*?\})</pre>', done.stdout, flags=re.S)
    assert len(notes) == len(pages), done.stderr[-500:]
    return {found["name"]: found for found in (json.loads(html.unescape(note)) for note in notes)}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with every section, long names and several numbers of labels."""
    from tests.study.conftest import Study

    folder = tmp_path_factory.mktemp("page")
    study = Study(folder / "outputs")
    for size in (20, 100, None):
        for seed in range(3):
            for arm in ("transfer", "direct", "scratch"):
                config = {"experiment_name": "an_experiment_with_a_name_of_more_than_forty_characters"}
                study.add(arm, seed, size, texts=True, validation=[0.6, 0.7, 0.75], config=config)
    study.add("transfer", 9, 20)
    return write_all(compare(study.records), folder / "report")[0].read_text(encoding="utf-8")


class Silent(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    """Where a page could fetch something from."""
    server = HTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/picture.png"
    server.shutdown()


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_sticks_out_and_nothing_is_fetched(page, address, tmp_path, dark):
    spoiled = page.replace("<h2>", f'<img src="{address}"><p style="width: 2000px">too wide</p><h2>', 1)
    shown = probe({"wide": (page, 1200), "phone": (page, 390), "spoiled": (spoiled, 390)}, tmp_path, dark)
    for name, width in (("wide", 1200), ("phone", 390)):
        found = shown[name]
        assert width - 20 < found["width"] <= width  # less a scroll bar
        assert (found["out"], found["scroll"], found["cut"]) == ([], found["width"], 0)
        assert found["fetched"] == []
        assert found["svgs"] == 4  # the wide pictures or the narrow ones
        assert found["small"] > 8  # pixels of the smallest letters
        ground, ink = (sum(map(int, re.findall(r"\d+", found[key])[:3])) for key in ("back", "ink"))
        assert (ground < 150 and ink > 600) if dark else (ground > 700 and ink < 150)
    # The probe would have seen it.
    assert shown["spoiled"]["fetched"] == [address]
    assert any("too wide" in line for line in shown["spoiled"]["out"])
    assert shown["spoiled"]["scroll"] > shown["spoiled"]["width"]
