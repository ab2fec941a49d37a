"""The page in a real browser: it fits a phone, asks the network for nothing, and logs no error."""

import json
import re
import shutil
import subprocess

import pytest

from easynlp.landing.page import page
from tests.unit.landing.test_page import a_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (found := shutil.which(name))),
    None,
)  # fmt: skip
WIDTHS = (390, 1280)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")

# Frames stand for windows, since a headless window has a least width; the page has no script, so
# the frame's owner measures it.
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"
content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"><body><script>
const pages = PAGES, widths = WIDTHS, found = [];
const wide = (frame, width) => [...frame.contentDocument.querySelectorAll("body *")].filter(
  (each) => !each.closest(".scroll,.skip,head") && each.getBoundingClientRect().right > width + 1
).map((each) => each.outerHTML.slice(0, 80));
const clipped = (frame) => [...frame.contentDocument.querySelectorAll("svg")].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((each) => {
    const own = each.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
  }).map((each) => each.textContent);
});
let left = pages.length * widths.length;
pages.forEach((text, number) => widths.forEach((width) => {
  const frame = document.createElement("iframe");
  frame.style = `border:0;width:${width}px;height:900px`;
  frame.onload = () => {
    const doc = frame.contentDocument;
    found.push({
      number, width, inner: frame.contentWindow.innerWidth, wide: wide(frame, width),
      scroll: doc.scrollingElement.scrollWidth, clipped: clipped(frame),
      small: [...doc.querySelectorAll("svg text")].filter(
        (each) => each.getBoundingClientRect().height < 11).length,
    });
    if (!--left) { document.title = "measured"; document.body.textContent = JSON.stringify(found); }
  };
  frame.srcdoc = text;
  document.body.append(frame);
}));
</script>"""


def measure(tmp_path, *pages):
    """Return what the browser says of pages at each width, and what it wrote to its console."""
    texts = json.dumps(pages).replace("<", "\\u003c")
    file = tmp_path / "measure.html"
    file.write_text(MEASURE.replace("PAGES", texts).replace("WIDTHS", str(list(WIDTHS))), "utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom",
         file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    body = re.search(r"<body>(\[.*\])</body>", done.stdout, re.DOTALL)
    assert body, done.stdout[-500:] + done.stderr[-500:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(body[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
                      ), console  # fmt: skip


def test_the_page_in_a_browser(tmp_path):
    long = "https://example.org/" + "a" * 300
    pages = [page(a_report("好评")), page(a_report("很好" * 60)), page(a_report(long))]
    broken = (
        "<!DOCTYPE html><style>svg{width:100px}</style><div style='width:2000px'>x</div>"
        "<img src='nothing.png'><svg viewBox='0 0 360 9'><text x='350'>out</text></svg>"
    )
    found, console = measure(tmp_path, *pages, broken)
    assert len(found) == len(WIDTHS) * 4
    for each in found:
        assert each["inner"] == each["width"]
        if each["number"] == 3:  # what is wrong is seen
            assert each["scroll"] > each["width"]
            assert each["wide"]
            assert each["clipped"] == ["out"]
            assert each["small"]
            continue
        assert each["scroll"] <= each["width"], each["wide"]
        assert each["wide"] == []
        assert each["clipped"] == []
        assert each["small"] == 0
    # Frames may load nothing, and what they try to is on the console.
    assert len(console) >= 1
    assert all("Content Security Policy" in line and "nothing.png" in line for line in console)
