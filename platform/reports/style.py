"""The report's style sheet: system fonts only, light and dark, from phone to desktop, nothing fetched."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5b6676;--line:#dfe3ea;--grid:#e9ecf1;--quiet:#93a0b2;
--accent:#1f5fbf;--good:#14713d;--bad:#a8321f;--warn-ground:#fff4d9;--warn-ink:#6b4a00;
--c0:#2f6fd0;--c1:#d9822b;--c2:#2b9a66;--c3:#b0467f;--c4:#7a63c9;--c5:#6c7a89;--c6:#1d9aa8;--c7:#b59a2a}
@media (prefers-color-scheme:dark){:root{--ground:#10141a;--card:#181e27;--ink:#e8ecf2;--soft:#a3aebd;--line:#2c3542;--grid:#242c38;
--quiet:#75839a;
--accent:#8ab8ff;--good:#6fd39b;--bad:#ff9d8a;--warn-ground:#3a2f12;--warn-ink:#ffdc8a;
--c0:#6aa5ff;--c1:#f0a35a;--c2:#5cc994;--c3:#e58abb;--c4:#ac9bf2;--c5:#9aa7b6;--c6:#5cc8d4;--c7:#d8c067}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
header p.kind{margin:0 0 4px;color:var(--soft);font-size:.82rem;letter-spacing:.06em;text-transform:uppercase}
h1{font-size:clamp(1.55rem,1.2rem + 1.6vw,2.2rem);line-height:1.2;margin:0 0 14px;overflow-wrap:anywhere}
h2{font-size:1.22rem;margin:44px 0 6px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:22px 0 6px}
p{margin:8px 0;max-width:75ch}
.headline{font-size:1.14rem;line-height:1.5;margin:0 0 8px;padding:16px 20px;background:var(--card);border-left:4px solid var(--accent);
border-radius:0 10px 10px 0;max-width:none}
.note,.unit{color:var(--soft)}.note{font-size:.9rem}.unit{font-weight:400}
.warn{background:var(--warn-ground);color:var(--warn-ink);border-radius:10px;padding:10px 18px;margin:14px 0}
.warn ul{margin:4px 0;padding-left:20px}
dl.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,200px),1fr));gap:1px;margin:22px 0 0;background:var(--line);
border:1px solid var(--line);border-radius:10px;overflow:hidden}
dl.facts div{background:var(--card);padding:10px 14px;min-width:0}
dl.facts div.filler{padding:0}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.charts,.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:18px;margin:14px 0}
figure{margin:0;min-width:0}
.chart,.picture{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.charts .chart{max-width:640px}
figcaption{font-weight:600;margin-bottom:6px}
.picture figcaption{font-weight:400;margin:10px 0 0}.picture figcaption b{display:block}
.picture img{display:block;width:100%;height:auto;border-radius:6px;background:var(--grid)}
.picture img.small{image-rendering:pixelated}
.pictures .wide{grid-column:1/-1}
svg{display:block;width:100%;height:auto;font-size:12.5px;fill:var(--soft);overflow:visible;font-variant-numeric:tabular-nums}
svg .grid{stroke:var(--grid)}svg .axis{stroke:var(--quiet)}
svg polyline{fill:none;stroke-linejoin:round;stroke-linecap:round}svg .line{stroke-width:2.2}svg .raw{stroke-width:1;opacity:.3}
svg .name{fill:var(--ink)}svg .value{fill:var(--ink);font-weight:600}svg .whisker{stroke-width:3;stroke-linecap:round;opacity:.55}
ul.legend,ul.shares{list-style:none;margin:0 0 6px;padding:0;font-size:.86rem;color:var(--soft)}
ul.legend{display:flex;flex-wrap:wrap;gap:2px 18px}
ul.legend i,ul.shares i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px;flex:none}
.stack{display:flex;height:26px;border-radius:6px;overflow:hidden;margin:8px 0 12px;background:var(--grid)}
.stack span+span{border-left:1px solid var(--card)}
ul.shares{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,260px),1fr));gap:2px 28px;margin:0}
ul.shares li{display:flex;align-items:center;font-variant-numeric:tabular-nums}
ul.shares span{flex:1;color:var(--ink)}ul.shares b{margin:0 10px;color:var(--ink);font-weight:600}ul.shares em{font-style:normal;
min-width:5em;text-align:right}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:10px;margin:12px 0}
table{border-collapse:collapse;width:100%;font-size:.94rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:12px 14px 4px;font-weight:600}
th,td{text-align:left;padding:8px 14px;border-top:1px solid var(--line);vertical-align:top;white-space:nowrap}
td.text{white-space:normal;min-width:14em;color:var(--soft)}
thead th{color:var(--soft);font-weight:600;font-size:.84rem;border-top:0}
thead th small{display:block;font-weight:400}
tbody th{font-weight:500}tr.main th,tr.main td{font-weight:650}tr.minor{color:var(--soft)}
td small{color:var(--soft);font-weight:400;margin-left:.45em}
.verdict{display:block}.good{color:var(--good)}.bad{color:var(--bad)}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;overflow-x:auto;
font:.86rem/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
details{background:var(--card);border:1px solid var(--line);border-radius:10px;margin:12px 0}
summary{cursor:pointer;padding:12px 16px;font-weight:600}
summary:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:10px}
details .scroll{border:0;margin:0}details td{white-space:normal;overflow-wrap:anywhere}
details td,details th{font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;padding:4px 16px}
ol,ul{padding-left:22px}li{margin:3px 0}
footer{margin-top:48px;color:var(--soft);font-size:.86rem}
@media (max-width:560px){main{padding:20px 14px 48px}.chart,.picture{padding:12px}th,td{padding:7px 10px}svg{font-size:15px}
dl.facts{grid-template-columns:1fr 1fr}
.headline{padding:14px 16px;font-size:1.05rem}tbody th{white-space:normal;min-width:6.5em}td.text{min-width:10em;font-size:.86rem}
td small{display:block;margin:0}
thead th small{display:none}}
@media print{body{background:#fff}main{max-width:none}.chart,.picture,.scroll{break-inside:avoid}}
"""
