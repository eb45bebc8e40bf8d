"""The style sheet of report pages: light and dark by the reader's preference, narrow screens first."""

CSS = """
:root { --ink: #1b1f24; --paper: #ffffff; --soft: #6a737d; --rule: #d8dee4; --good: #0a7a3d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #14171a; --soft: #9aa4af; --rule: #343b43; --good: #5fd38d; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
.headline { font-size: 1.15rem; }
.faint, small, caption, figcaption { color: var(--soft); }
.right { color: var(--good); white-space: nowrap; }
.wrong { color: var(--bad); white-space: nowrap; }
.bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--rule); }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
th small { display: block; font-weight: 400; line-height: 1.3; }
td small { display: block; line-height: 1.3; white-space: nowrap; }
summary { cursor: pointer; padding: .35rem 0; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; padding: 0; margin: .5rem 0; }
.name { white-space: nowrap; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg .faint { fill: var(--soft); }
svg .small { font-size: 10.5px; }
.grid { stroke: var(--rule); stroke-width: 1; }
.whisker { stroke: var(--ink); stroke-width: 1.5; }
.curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.past { fill: var(--ink); fill-opacity: .08; }
.tick { stroke: var(--ink); stroke-opacity: .22; stroke-width: .6; }
.pixels, .frame { image-rendering: pixelated; }
figure { margin: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
.pair > figure > svg { min-width: 0 !important; }
.masks { grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); margin-top: 1rem; }
.masks > * { min-width: 0; }
.key { display: inline-block; width: 30px; margin-right: .4em; vertical-align: middle; }
.timeline, .plain { list-style: none; padding: 0; margin: 0; }
.timeline > li { display: grid; grid-template-columns: 4.5rem 1fr; gap: .75rem; padding: .6rem 0;
  border-bottom: 1px solid var(--rule); }
.time { color: var(--soft); font-variant-numeric: tabular-nums; }
.frames { display: flex; flex-wrap: wrap; gap: .5rem; }
.frame { display: block; border-radius: 3px; }
.frames figcaption { font-size: .75rem; }
.query { margin: 0; font-weight: 600; }
.query .faint { font-weight: 400; margin-left: .4em; }
.plain li { padding: .1rem 0; }
.tag { color: var(--soft); margin-right: .6em; white-space: nowrap; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""
