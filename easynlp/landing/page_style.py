"""The look of the report's page."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--rule:#d0d7de;--back:#fff;
--panel:#f6f8fa;--blue:#0a55b5;--orange:#a64700;--green:#116b34;--warn:#fff6dd;--warnrule:#b58100;
--mark:#e8f1fd;--bar:#a9cdf7;--r1:#e6f4ea;--r2:#c9e7d2;--r3:#a8d8b8;--r4:#86c99d;--w1:#fdebe0;
--w2:#fad3ba;--w3:#f6b78f;--w4:#f19c66}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9ea7b1;--rule:#3a424b;--back:#14181d;
--panel:#1d232a;--blue:#7db5ff;--orange:#ffa566;--green:#74d394;--warn:#3a3010;--warnrule:#d0a030;
--mark:#16304f;--bar:#2a4f7e;--r1:#16301f;--r2:#1a4029;--r3:#1f5435;--r4:#256a42;--w1:#3a2415;
--w2:#50301a;--w3:#6a3d1e;--w4:#854b22}}
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
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
.texts table{width:100%}
caption{text-align:left;color:var(--soft);padding:0 0 .4rem;caption-side:top}
caption span{display:inline-block;position:sticky;left:0;width:max-content;
max-width:min(calc(100vw - 2rem),46rem)}
th,td{padding:.4rem .8rem .4rem 0;border-bottom:1px solid var(--rule);text-align:left;
vertical-align:top;overflow-wrap:break-word}
thead th{border-bottom:2px solid var(--soft);white-space:nowrap}
th[scope=row]{font-weight:500;min-width:7.5rem}
.soft{color:var(--soft)}
td.n,th.n{text-align:right;white-space:nowrap}
tr.marked>*{background:var(--mark)}
.strong{font-weight:700}
.texts tbody *{overflow-wrap:anywhere}
.texts th[scope=row]{font-weight:400;min-width:min(18rem,44vw)}
.texts td{min-width:5rem}
.cell{display:inline-block;min-width:3.2em;padding:.1em .5em;border-radius:3px;text-align:right}
.right1{background:var(--r1)}.right2{background:var(--r2)}.right3{background:var(--r3)}
.right4{background:var(--r4)}
.wrong1{background:var(--w1)}.wrong2{background:var(--w2)}.wrong3{background:var(--w3)}
.wrong4{background:var(--w4)}
figure{margin:1rem 0;max-width:30rem}
figcaption{color:var(--soft);font-size:.9rem}
.pair{display:grid;grid-template-columns:minmax(0,1fr);column-gap:2rem}
@media(min-width:56rem){.pair{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}
svg{display:block;width:100%;height:auto}
svg text{font-size:12px;fill:var(--ink);font-family:inherit;paint-order:stroke;
stroke:var(--back);stroke-width:3px;stroke-linejoin:round}
svg text.inside{stroke:none}
svg text.strong{font-weight:700}
.grid{stroke:var(--rule);stroke-width:1}
.whisker{stroke-width:3;stroke:var(--soft)}.whisker.served{stroke:var(--blue)}
.whisker.floor{stroke-dasharray:5 3}
.dot{fill:var(--soft)}.dot.served{fill:var(--blue)}
.dot.floor{fill:var(--back);stroke:var(--soft);stroke-width:2}
.bar{fill:var(--bar);stroke:var(--blue)}
.ideal{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:6 4}
.line{fill:none;stroke-width:2}
.s0{stroke:var(--blue)}.s1{stroke:var(--orange)}.s2{stroke:var(--green)}
.point.s0{fill:var(--blue)}.point.s1{fill:var(--orange)}.point.s2{fill:var(--green)}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--blue)}
pre{background:var(--panel);border:1px solid var(--rule);padding:.7rem;margin:.3rem 0;
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
@media(max-width:40rem){table{font-size:.82rem}th,td{padding:.35rem .55rem .35rem 0}
th[scope=row]{min-width:5.2rem}thead th,thead th.n{white-space:normal}td.n .soft{display:block}
.texts th[scope=row]{min-width:36vw}.texts td{min-width:2.6rem}}
footer{color:var(--soft);margin-top:2rem}
@media print{:root{color-scheme:light}body{max-width:none;padding:0;font-size:10.5pt}
.scroll{overflow:visible}
.skip{display:none}section{break-inside:auto}tr,figure,pre{break-inside:avoid}
h2,h3,caption{break-after:avoid}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.texts th[scope=row]{min-width:0}}
"""
