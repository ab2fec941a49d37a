"""The look of the report's page."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{--ink:#1b1f24;--soft:#57606a;--rule:#d0d7de;--back:#fff;--panel:#f6f8fa;--blue:#0a55b5;
--orange:#a64700;--green:#116b34;--warn:#fff6dd;--warnrule:#b58100}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem 1rem 3rem;max-width:68rem;color:var(--ink);background:var(--back);
font:16px/1.55 system-ui,-apple-system,"Segoe UI","PingFang SC","Noto Sans SC","Noto Sans CJK SC",
"Microsoft YaHei",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.25;margin:.5rem 0}
h2{font-size:1.3rem;margin:2.2rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--rule)}
h3{font-size:1.05rem;margin:1.4rem 0 .3rem}
p,ul{max-width:46rem}
ul{padding-left:1.2rem}
.lead{font-size:1.1rem}
.skip{position:absolute;left:-99rem}
.skip:focus{position:static}
.warning{background:var(--warn);border-left:4px solid var(--warnrule);padding:.5rem .75rem}
.scroll{overflow-x:auto;margin:1rem 0;max-width:100%}
.scroll:focus-visible,pre:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:0 0 .4rem;caption-side:top}
th,td{padding:.4rem .6rem;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top}
thead th{border-bottom:2px solid var(--soft);white-space:nowrap}
th[scope=row]{font-weight:500;min-width:8rem}
td.n,th.n{text-align:right;white-space:nowrap}
tr.marked>*{background:#e8f1fd}
.strong{font-weight:700}
.texts table{min-width:34rem}
.texts th[scope=row]{font-weight:400;min-width:18rem}
.texts td{min-width:4rem}
.cell{display:inline-block;min-width:3.2em;padding:.1em .5em;border-radius:3px;text-align:right}
.right1{background:#e6f4ea}.right2{background:#c9e7d2}.right3{background:#a8d8b8}
.right4{background:#86c99d}
.wrong1{background:#fdebe0}.wrong2{background:#fad3ba}.wrong3{background:#f6b78f}
.wrong4{background:#f19c66}
figure{margin:1rem 0;max-width:36rem}
figcaption{color:var(--soft);font-size:.9rem}
.pair{display:grid;grid-template-columns:minmax(0,1fr);column-gap:2rem}
@media(min-width:56rem){.pair{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
svg{display:block;width:100%;height:auto}
svg text{font-size:12px;fill:var(--ink);font-family:inherit}
svg text.strong{font-weight:700}
.grid{stroke:var(--rule);stroke-width:1}
.whisker{stroke-width:3;stroke:var(--soft)}.whisker.served{stroke:var(--blue)}
.whisker.floor{stroke-dasharray:5 3}
.dot{fill:var(--soft)}.dot.served{fill:var(--blue)}
.dot.floor{fill:var(--back);stroke:var(--soft);stroke-width:2}
.bar{fill:#a9cdf7;stroke:var(--blue)}
.ideal{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:6 4}
.line{fill:none;stroke-width:2}
.s0{stroke:var(--blue)}.s1{stroke:var(--orange)}.s2{stroke:var(--green)}
.point.s0{fill:var(--blue)}.point.s1{fill:var(--orange)}.point.s2{fill:var(--green)}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--blue)}
pre{background:var(--panel);border:1px solid var(--rule);padding:.7rem;margin:.3rem 0;
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
footer{color:var(--soft);margin-top:2rem}
@media print{body{max-width:none;padding:0;font-size:10.5pt}.scroll{overflow:visible}
.skip{display:none}section{break-inside:auto}tr,figure,pre{break-inside:avoid}
h2,h3,caption{break-after:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.texts table{min-width:0}.texts th[scope=row]{min-width:0}}
"""
